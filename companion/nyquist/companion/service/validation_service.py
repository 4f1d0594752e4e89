"""nyquist.v1.Validation over gRPC.   request -> steps in a thread -> stream, or status."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TypeVar

import grpc

from nyquist.companion.references.subjects import Subjects
from nyquist.companion.service.validation import Validation, as_ours
from nyquist.companion.watch.record import Record
from nyquist.server.front.calls import Context
from nyquist.server.wire.errors import TooManyCalls
from nyquist.server.wire.pb import validation_pb2 as pb
from nyquist.server.wire.pb import validation_pb2_grpc as stubs

T = TypeVar("T")

CALLS_AT_A_TIME = 8


class ValidationService(stubs.ValidationServicer):
    """Runs checks for callers, a step of each in turn, in one thread. Close it.

    Args:
        subjects: models of the server, and what they are held against.
        record: that knows the verdicts.
    """

    def __init__(self, subjects: Subjects, record: Record) -> None:
        self._validation = Validation(subjects)
        self._record = record
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="validation")
        self._running = 0

    def close(self) -> None:
        """Let the step that runs end, and no other begin."""
        self._thread.shutdown(cancel_futures=True)

    async def CheckParity(  # noqa: N802 - the name in the .proto
        self,
        request: pb.CheckParityRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[pb.CheckParityResponse]:
        async for event in self._steps(self._validation.check_parity(request)):
            yield event

    async def CheckShiftConsistency(  # noqa: N802 - likewise
        self,
        request: pb.CheckShiftConsistencyRequest,
        context: Context,  # noqa: ARG002 - likewise
    ) -> AsyncIterator[pb.CheckShiftConsistencyResponse]:
        async for event in self._steps(self._validation.check_shift_consistency(request)):
            yield event

    async def CompareLatency(  # noqa: N802 - likewise
        self,
        request: pb.CompareLatencyRequest,
        context: Context,  # noqa: ARG002 - likewise
    ) -> AsyncIterator[pb.CompareLatencyResponse]:
        async for event in self._steps(self._validation.compare_latency(request)):
            yield event

    async def DescribeModel(  # noqa: N802 - likewise
        self,
        request: pb.DescribeModelRequest,
        context: Context,  # noqa: ARG002 - likewise
    ) -> pb.ModelDescription:
        async with aclosing(self._steps(self._validation.describe_model(request))) as steps:
            description = await anext(steps)
        return with_verdict(description, self._record)

    async def _steps(self, events: Iterator[T]) -> AsyncGenerator[T, None]:
        """Take one step after another, each in the thread, so that calls take turns."""
        if self._running >= CALLS_AT_A_TIME:
            raise TooManyCalls(f"{self._running} checks are running, as many as may; try later")
        loop = asyncio.get_running_loop()
        self._running += 1
        try:
            while (
                event := await loop.run_in_executor(self._thread, next, events, None)
            ) is not None:
                yield event
        except grpc.RpcError as error:
            raise as_ours(error) from error
        finally:
            self._running -= 1


def with_verdict(description: pb.ModelDescription, record: Record) -> pb.ModelDescription:
    """Add what the companion thinks of the graph that is described."""
    graph = description.graph
    for state in record.models():
        if (*state.key, state.sha256) == (graph.model_name, graph.model_version, graph.sha256):
            description.verdict, description.reason = state.verdict.value, state.reason
    return description
