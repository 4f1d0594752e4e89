"""The names of the companion's metrics, once: what counts them and what draws them import these."""

BUILD_INFO = "nyquist_companion_build_info"

PARITY_MAX_ABS_ERROR = "nyquist_parity_max_abs_error"
PARITY_MEAN_ABS_ERROR = "nyquist_parity_mean_abs_error"
PARITY_RELATIVE_ERROR = "nyquist_parity_relative_error"
PARITY_AGREEMENT = "nyquist_parity_agreement_ratio"
PARITY_TOLERANCE = "nyquist_parity_tolerance"
CONSISTENCY = "nyquist_shift_consistency_ratio"
CONSISTENCY_TOLERANCE = "nyquist_shift_consistency_tolerance"
REFERENCE_DURATION = "nyquist_reference_duration_seconds"
VERDICT = "nyquist_verdict"

SHADOW_RECEIVED = "nyquist_shadow_received_total"
SHADOW_DROPPED = "nyquist_companion_shadow_dropped_total"
SHADOW_CHECKED = "nyquist_shadow_checked_total"
SHADOW_UNVERIFIABLE = "nyquist_shadow_unverifiable_total"

PROBES = "nyquist_companion_probes_total"
LAST_PROBE = "nyquist_companion_last_probe_timestamp_seconds"
SERVER_UP = "nyquist_companion_server_up"
PROBE_PERIOD = "nyquist_companion_probe_period_seconds"

ROLLOUT_DECISION = "nyquist_rollout_decision"
ROLLOUT_PICTURES = "nyquist_rollout_pictures"
ROLLOUT_FIGURE = "nyquist_rollout_figure_ratio"
ROLLOUT_LIMIT = "nyquist_rollout_limit_ratio"
ROLLOUT_LATENCY = "nyquist_rollout_latency_seconds"
