"""The log settings that a caller may change while the server runs.

request -> checked whole -> filter and format of the handlers -> what now holds
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nyquist.server.wire.errors import InvalidRequest, NotServed
from nyquist.server.wire.pb import inference_pb2 as pb

Value = bool | int | str

KINDS = {
    "log_info": ("bool_param", "boolean"),
    "log_warning": ("bool_param", "boolean"),
    "log_error": ("bool_param", "boolean"),
    "log_verbose_level": ("uint32_param", "uint32"),
    "log_format": ("string_param", "string"),
}
FORMATS = ("default", "ISO8601")


@dataclass(frozen=True)
class LogChoice:
    """What is logged, and how; the names are the protocol's.

    Attributes:
        log_info: lines of level info.
        log_warning: of level warning.
        log_error: of level error and above.
        log_verbose_level: above 0, lines of level debug.
        log_format: default, as the server was started; ISO8601, plain text with such times.
    """

    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "default"

    def passes(self, level: int) -> bool:
        """Say whether a line of this level is logged."""
        if level >= logging.ERROR:
            return self.log_error
        if level >= logging.WARNING:
            return self.log_warning
        return self.log_info if level >= logging.INFO else self.log_verbose_level > 0


class _Iso8601(logging.Formatter):
    """Plain text with times as 2026-01-31T23:59:59.123Z."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class LogControl:
    """Steers what is written.

    Args:
        logger: whose level is chosen.
        handlers: that write its lines, and maybe those of others.
    """

    def __init__(self, logger: logging.Logger, handlers: Sequence[logging.Handler]) -> None:
        self._logger = logger
        self._formatters = {handler: handler.formatter for handler in handlers}
        level = logger.getEffectiveLevel()
        self._choice = LogChoice(
            log_info=level <= logging.INFO,
            log_warning=level <= logging.WARNING,
            log_verbose_level=int(level <= logging.DEBUG),
        )

    def update(self, settings: Mapping[str, pb.LogSettingsRequest.SettingValue]) -> None:
        """Change some; none of them if one is wrong.

        Raises:
            InvalidRequest: a key or value is none.
            NotServed: the log file is to be set, which a caller must not choose.
        """
        if not settings:
            return
        checked = {key: _checked(key, value) for key, value in settings.items()}
        self._choice = replace(self._choice, **checked)  # type: ignore[arg-type] # checked by key
        self._apply(self._choice)

    def message(self) -> pb.LogSettingsResponse:
        """Return all that holds."""
        response = pb.LogSettingsResponse()
        response.settings["log_file"].string_param = ""
        for key, (kind, _) in KINDS.items():
            setattr(response.settings[key], kind, getattr(self._choice, key))
        return response

    def _apply(self, choice: LogChoice) -> None:
        levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        least = next((level for level in levels if choice.passes(level)), logging.CRITICAL + 1)
        self._logger.setLevel(least)
        for handler, own in self._formatters.items():
            for former in [one for one in handler.filters if isinstance(one, _Chosen)]:
                handler.removeFilter(former)
            handler.addFilter(_Chosen(choice))
            iso = _Iso8601("%(asctime)s %(levelname)s %(message)s")
            handler.setFormatter(iso if choice.log_format == "ISO8601" else own)


class _Chosen(logging.Filter):
    def __init__(self, choice: LogChoice) -> None:
        super().__init__()
        self._choice = choice

    def filter(self, record: logging.LogRecord) -> bool:
        return self._choice.passes(record.levelno)


def _checked(key: str, value: pb.LogSettingsRequest.SettingValue) -> Value:
    if key == "log_file":
        raise NotServed("log file location can not be updated through network protocol")
    if key not in KINDS:
        raise InvalidRequest(f"unknown log setting '{key}', settable are {sorted(KINDS)}")
    kind, in_words = KINDS[key]
    if value.WhichOneof("parameter_choice") != kind:
        raise InvalidRequest(f"expect {in_words} for '{key}'")
    chosen: Value = getattr(value, kind)
    if key == "log_format" and chosen not in FORMATS:
        raise InvalidRequest(
            f"invalid argument for log_format, got: {str(chosen)[:40]}, expected {FORMATS}"
        )
    return chosen
