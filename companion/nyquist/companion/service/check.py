"""Hold a live server against PyTorch: the same pictures through both, a row a model.

model -> parity -> shift consistency -> latency, each step by step -> Row
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nyquist.companion.measures.tolerances import consistency_misses, parity_misses
from nyquist.companion.watch.shift_trials import CIRCULAR
from nyquist.server.wire.pb import validation_pb2 as pb

Follow = Callable[[int, int], None]
"""Is told how many steps are done, of how many."""


class Validates(Protocol):
    """What answers: this process, or a companion that runs."""

    def check_parity(self, request: pb.CheckParityRequest, /) -> Iterable[pb.CheckParityResponse]:
        """Answer CheckParity."""

    def check_shift_consistency(
        self, request: pb.CheckShiftConsistencyRequest, /
    ) -> Iterable[pb.CheckShiftConsistencyResponse]:
        """Answer CheckShiftConsistency."""

    def compare_latency(
        self, request: pb.CompareLatencyRequest, /
    ) -> Iterable[pb.CompareLatencyResponse]:
        """Answer CompareLatency."""

    def describe_model(self, request: pb.DescribeModelRequest, /) -> Iterable[pb.ModelDescription]:
        """Answer DescribeModel."""


@dataclass(frozen=True)
class Row:
    """What one model showed.

    Attributes:
        parity: server against reference.
        consistency: of both under the same circular shifts.
        latency: of both, for one picture.
    """

    parity: pb.ParityReport
    consistency: pb.ConsistencyReport
    latency: pb.LatencyReport

    @property
    def misses(self) -> tuple[str, ...]:
        """The tolerances that are missed, in words; empty if the model is as it should be.

        Without a reference nothing was promised.
        """
        parity = self.parity
        if parity.graph.no_reference:
            return ()
        return (
            *parity_misses(parity.relative_error, parity.max_abs_error, parity.tolerance),
            *misses_of(self.consistency),
        )


def check_model(validation: Validates, subject: pb.Subject, follow: Follow) -> Row:
    """Compare a served model with its reference.

    Raises:
        NyquistError: its reference is of another graph, or damaged.
        grpc.RpcError: the server does not serve it, or fails.
    """
    parity = pb.CheckParityRequest(subject=subject)
    shifts = pb.CheckShiftConsistencyRequest(subject=subject, protocols=[CIRCULAR])
    latency = pb.CompareLatencyRequest(subject=subject, batch_sizes=[1])
    return Row(
        report_of(validation.check_parity(parity), follow),
        report_of(validation.check_shift_consistency(shifts), follow),
        report_of(validation.compare_latency(latency), follow),
    )


def report_of(events: Iterable[Any], follow: Follow) -> Any:  # noqa: ANN401 - that of the method
    """Follow the progress of a call, and return the report at its end."""
    for event in events:
        if event.HasField("report"):
            return event.report
        follow(event.progress.done, event.progress.total)
    raise ValueError("the stream ended without a report")


def misses_of(report: pb.ConsistencyReport) -> Iterator[str]:
    """Say how far the circular consistency of a report is below its tolerance, if it is."""
    for one in report.measured:
        if one.protocol == CIRCULAR:
            yield from consistency_misses(one.served, report.tolerance)
