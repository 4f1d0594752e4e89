"""Hold a live server against PyTorch: the same pictures through both, a row a model.

model -> parity -> shift consistency -> latency, each step by step -> Row
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from companion.shift_trials import CIRCULAR
from server.pb import validation_pb2 as pb

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
        """The tolerances that are missed, in words; empty if the model is as it should be."""
        return (*parity_misses(self.parity), *consistency_misses(self.consistency))


def check_model(validation: Validates, subject: pb.Subject, follow: Follow) -> Row:
    """Compare a served model with its reference.

    Raises:
        NyquistError: there is no reference.
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


def parity_misses(report: pb.ParityReport) -> Iterator[str]:
    """Say how the parity is beyond its tolerance, if it is."""
    if not report.holds:
        yield (
            f"parity: logits differ by {report.relative_error:.2g} of their spread "
            f"({report.max_abs_error:.2g}), at most {report.tolerance:.2g} is allowed"
        )


def consistency_misses(report: pb.ConsistencyReport) -> Iterator[str]:
    """Say how the consistency is below its tolerance, if it is."""
    for one in report.measured:
        if one.protocol == CIRCULAR and not report.holds:
            yield (
                f"shift consistency is {one.served:.2%}, "
                f"at least {report.tolerance:.2%} is required"
            )
