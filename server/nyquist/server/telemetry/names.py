"""The names of the server's metrics, once: what counts them and what draws them import these."""

BUILD_INFO = "nyquist_build_info"

REQUEST_DURATION = "nyquist_request_duration_seconds"
STAGE_DURATION = "nyquist_stage_duration_seconds"
BATCH_SIZE = "nyquist_batch_size"
PADDING_ROWS = "nyquist_padding_rows_total"
INFLIGHT = "nyquist_inflight_requests"
REJECTED = "nyquist_rejected_total"

QUEUE_BYTES = "nyquist_queue_bytes"
QUEUE_BYTES_LIMIT = "nyquist_queue_bytes_limit"
QUEUE_DEPTH = "nyquist_queue_depth"
QUEUE_LIMIT = "nyquist_queue_limit"

MODEL_READY = "nyquist_model_ready"
MODEL_INFO = "nyquist_model_info"
PROVIDER_FALLBACK = "nyquist_provider_fallback_total"
LOAD_DURATION = "nyquist_model_load_duration_seconds"
MODEL_FAILED = "nyquist_model_failed"
LOAD_FAILURES = "nyquist_model_load_failures_total"

SHADOW_MIRRORED = "nyquist_shadow_mirrored_total"
SHADOW_DROPPED = "nyquist_shadow_dropped_total"

SOURCE_LAST_SUCCESS = "nyquist_source_last_success_timestamp_seconds"
SOURCE_FAILURES = "nyquist_source_failures_total"
SOURCE_BYTES = "nyquist_source_fetched_bytes_total"

WORKERS = "nyquist_workers"
WORKER_DEATHS = "nyquist_worker_deaths_total"

# Those of the gRPC ecosystem, by go-grpc-middleware.
CALLS_STARTED = "grpc_server_started_total"
CALLS_HANDLED = "grpc_server_handled_total"
CALL_DURATION = "grpc_server_handling_seconds"
MESSAGES_RECEIVED = "grpc_server_msg_received_total"
MESSAGES_SENT = "grpc_server_msg_sent_total"

# Triton's, for its dashboards and autoscalers.
TRITON_SUCCESS = "nv_inference_request_success"
TRITON_FAILURE = "nv_inference_request_failure"
TRITON_PICTURES = "nv_inference_count"
TRITON_RUNS = "nv_inference_exec_count"
TRITON_REQUEST_DURATION = "nv_inference_request_duration_us"
TRITON_QUEUE_DURATION = "nv_inference_queue_duration_us"
TRITON_INPUT_DURATION = "nv_inference_compute_input_duration_us"
TRITON_INFER_DURATION = "nv_inference_compute_infer_duration_us"
TRITON_OUTPUT_DURATION = "nv_inference_compute_output_duration_us"
TRITON_PENDING = "nv_inference_pending_request_count"
GPU_UTILIZATION = "nv_gpu_utilization"
GPU_MEMORY_USED = "nv_gpu_memory_used_bytes"
GPU_MEMORY_TOTAL = "nv_gpu_memory_total_bytes"
GPU_POWER = "nv_gpu_power_usage"

# Of every process that prometheus_client shows.
PROCESS_CPU = "process_cpu_seconds_total"
PROCESS_MEMORY = "process_resident_memory_bytes"
