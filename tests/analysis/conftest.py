import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_trace_of_the_exporter() -> Iterator[None]:
    """Keep torch's own trace out of pytest's log capture, which formats a record an operator."""
    trace = logging.getLogger("torch.__trace")
    propagates, trace.propagate = trace.propagate, False
    yield
    trace.propagate = propagates
