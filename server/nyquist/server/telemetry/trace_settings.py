"""The settings of Triton's trace extension: kept, returned, and heeded by what is traced.

request -> checked whole -> stored -> what now holds

trace_level and trace_rate steer what is traced, where the server was started with
--tracing-endpoint; the others, and all without it, are kept for clients that set them.
"""

from collections.abc import Callable, Mapping, Sequence

from nyquist.server.wire.errors import InvalidRequest, NotServed
from nyquist.server.wire.pb import inference_pb2 as pb

INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1

DEFAULTS: dict[str, tuple[str, ...]] = {
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_file": ("",),
    "trace_mode": ("triton",),
}


class TraceSettings:
    """Global settings, and those of models that differ from them.

    Args:
        ratio: of the calls without a caller's decision that are traced, until a client sets
            another; None where nothing can be traced.
    """

    def __init__(self, ratio: float | None = None) -> None:
        self._ratio, self._defaults = ratio, dict(DEFAULTS)
        if ratio is not None:
            self._defaults |= {
                "trace_level": ("TIMESTAMPS",),
                "trace_rate": (str(round(1 / ratio)) if ratio else "0",),
                "trace_mode": ("opentelemetry",),
            }
        self._global: dict[str, tuple[str, ...]] = {}
        self._models: dict[str, dict[str, tuple[str, ...]]] = {}

    def update(self, model: str, settings: Mapping[str, Sequence[str]]) -> None:
        """Set some; none of them if one is wrong. An empty value goes back to what lies below.

        Args:
            model: known to exist; empty for the global settings.
            settings: values by key.

        Raises:
            InvalidRequest: a key or value is none.
            NotServed: the trace file is to be set, which a caller must not choose.
        """
        checked = {key: _checked(key, values) for key, values in settings.items()}
        if not checked:
            return
        target = self._models.setdefault(model, {}) if model else self._global
        for key, values in checked.items():
            if values:
                target[key] = values
            else:
                target.pop(key, None)

    def ratio_of(self, model: str) -> float | None:
        """Return the share of a model's calls to trace, of those without a caller's decision.

        None traces none at all, whatever the caller has decided.
        """
        held = self._held(model)
        if self._ratio is None or "OFF" in held["trace_level"]:
            return None
        if held["trace_rate"] == self._defaults["trace_rate"]:
            return self._ratio
        (one_in,) = held["trace_rate"]
        return 1 / int(one_in) if int(one_in) else 0.0

    def _held(self, model: str) -> dict[str, tuple[str, ...]]:
        return self._defaults | self._global | self._models.get(model, {})

    def message(self, model: str) -> pb.TraceSettingResponse:
        """Return all that holds for a model, or globally."""
        held = self._held(model)
        response = pb.TraceSettingResponse()
        for key, values in held.items():
            response.settings[key].value.extend(values)
        return response


def _checked(key: str, values: Sequence[str]) -> tuple[str, ...]:
    if key == "trace_file":
        raise NotServed("trace file location can not be updated through network protocol")
    if key not in CHECKS:
        raise InvalidRequest(f"unknown trace setting '{key}', settable are {sorted(CHECKS)}")
    if values:
        CHECKS[key](key, values)
    return tuple(values)


def _check_level(key: str, values: Sequence[str]) -> None:
    if "OFF" in values and len(values) > 1:
        raise InvalidRequest("Expect only one trace level 'OFF' is specified")
    for value in values:
        if value not in ("OFF", "TIMESTAMPS", "TENSORS"):
            raise InvalidRequest(
                f"Unable to parse '{key}', got: {value}, expected OFF, TIMESTAMPS or TENSORS"
            )


def _whole_number(least: int, most: int) -> Callable[[str, Sequence[str]], None]:
    def check(key: str, values: Sequence[str]) -> None:
        if len(values) != 1:
            raise InvalidRequest(f"expect only 1 value for '{key}'")
        (text,) = values
        if len(text) > 20 or not (text.isascii() and text.removeprefix("-").isdecimal()):
            raise InvalidRequest(f"Unable to parse '{key}', got: {text[:20]}")
        if not least <= int(text) <= most:
            raise InvalidRequest(
                f"Unable to parse '{key}', value is out of range [ {least}, {most} ], got: {text}"
            )

    return check


CHECKS: dict[str, Callable[[str, Sequence[str]], None]] = {
    "trace_level": _check_level,
    "trace_rate": _whole_number(0, UINT32_MAX),
    "trace_count": _whole_number(-1, INT32_MAX),
    "log_frequency": _whole_number(0, UINT32_MAX),
}
