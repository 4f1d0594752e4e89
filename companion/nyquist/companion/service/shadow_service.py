"""nyquist.v1.Shadow: takes mirrored inferences in, without making the server wait."""

import asyncio
from collections.abc import AsyncIterator

from nyquist.companion.watch.metrics import Metrics
from nyquist.companion.watch.record import Record
from nyquist.companion.watch.shadow import Mirrored
from nyquist.companion.watch.side_by_side import SideBySide
from nyquist.server.front.calls import Context
from nyquist.server.wire.pb import shadow_pb2 as pb
from nyquist.server.wire.pb import shadow_pb2_grpc as stubs


class ShadowService(stubs.ShadowServicer):
    """Counts what comes, and queues or drops it.

    Args:
        queue: of what is to be compared.
        record: that knows which graphs can be.
        metrics: that count.
        side_by_side: that compares versions on it; without a reference too.
    """

    def __init__(
        self, queue: Mirrored, record: Record, metrics: Metrics, side_by_side: SideBySide
    ) -> None:
        self._queue, self._record, self._metrics = queue, record, metrics
        self._side_by_side = side_by_side
        self._streams: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """End the streams: a server mirrors as long as it may, and would use up the grace."""
        for stream in self._streams:
            stream.cancel()

    async def Mirror(  # noqa: N802 - the name in the .proto
        self,
        request_iterator: AsyncIterator[pb.MirroredInference],
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> pb.MirrorReceipt:
        receipt = pb.MirrorReceipt()
        stream = asyncio.create_task(self._read(request_iterator, receipt))
        self._streams.add(stream)
        try:
            await asyncio.wait((stream,))
        finally:
            stream.cancel()
            self._streams.discard(stream)
        if not stream.cancelled():
            stream.result()  # raises what the reading raised
        return receipt

    async def _read(
        self, inferences: AsyncIterator[pb.MirroredInference], receipt: pb.MirrorReceipt
    ) -> None:
        async for inference in inferences:
            receipt.received += 1
            self._take(inference)

    def _take(self, inference: pb.MirroredInference) -> None:
        self._side_by_side.offer(inference)
        key = (inference.model_name, inference.model_version)
        if not self._record.verifies(key, inference.sha256):
            self._metrics.unverifiable.inc()
            return
        self._metrics.shadow_received(key)
        if not self._queue.put(inference):
            self._metrics.shadow_dropped(key)
