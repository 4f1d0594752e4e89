import io
import logging
from collections.abc import Iterator

import pytest

from nyquist.server.telemetry.log_control import LogControl
from nyquist.server.wire.pb import inference_pb2 as pb

Lines = tuple[logging.Logger, io.StringIO]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A logger of its own at level info, and what it has written."""
    written = io.StringIO()
    logger = logging.getLogger("tests.alone")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s"))
    logger.addHandler(handler)
    yield logger, written
    logger.removeHandler(handler)


def settings(**values: bool | int) -> dict[str, pb.LogSettingsRequest.SettingValue]:
    return {
        key: pb.LogSettingsRequest.SettingValue(bool_param=value)
        if isinstance(value, bool)
        else pb.LogSettingsRequest.SettingValue(uint32_param=value)
        for key, value in values.items()
    }


@pytest.mark.parametrize(
    ("chosen", "passing"),
    [
        ({}, "INFO WARNING ERROR"),
        ({"log_verbose_level": 1}, "DEBUG INFO WARNING ERROR"),
        ({"log_info": False, "log_verbose_level": 2}, "DEBUG WARNING ERROR"),
        ({"log_error": False}, "INFO WARNING"),
        ({"log_info": False, "log_warning": False, "log_error": False}, ""),
    ],
)
def test_each_level_is_switched_by_itself(
    lines: Lines, chosen: dict[str, bool | int], passing: str
) -> None:
    logger, written = lines
    control = LogControl(logger, logger.handlers)
    control.update(settings(**chosen))
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "x")
    assert written.getvalue().split() == passing.split()


def test_the_settings_start_as_the_logger_is(lines: Lines) -> None:
    logger, _ = lines
    logger.setLevel(logging.WARNING)
    told = LogControl(logger, logger.handlers).message().settings
    assert not told["log_info"].bool_param
    assert told["log_warning"].bool_param
