"""A companion that runs, asked from elsewhere: the same calls as in this process."""

from collections.abc import Iterable, Iterator

from grpc_health.v1 import health_pb2, health_pb2_grpc

from nyquist.client.client import MAX_MESSAGE_BYTES
from nyquist.server.wire.connection import Connection
from nyquist.server.wire.pb import validation_pb2 as pb
from nyquist.server.wire.pb import validation_pb2_grpc as stubs

ANSWER_S = 30.0


class RemoteValidation:
    """Calls nyquist.v1.Validation. Close it, or use it with `with`.

    Every method raises grpc.RpcError as the companion or the connection has it.

    Args:
        connection: to the companion.

    Raises:
        WrongConnection: the connection's files cannot be used.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = connection.channel((("grpc.max_send_message_length", MAX_MESSAGE_BYTES),))
        self._stub = stubs.ValidationStub(self._channel)

    def __enter__(self) -> "RemoteValidation":
        return self

    def __exit__(self, *exception: object) -> None:
        self._channel.close()

    def models(self) -> list[str]:
        """Return the models that the companion has a verdict on."""
        answer = health_pb2_grpc.HealthStub(self._channel).List(
            health_pb2.HealthListRequest(),
            timeout=ANSWER_S,
            metadata=self._connection.metadata(),
        )
        return sorted(filter(None, answer.statuses))

    def check_parity(self, request: pb.CheckParityRequest) -> Iterable[pb.CheckParityResponse]:
        """Call CheckParity."""
        return self._stub.CheckParity(request, metadata=self._connection.metadata())

    def check_shift_consistency(
        self, request: pb.CheckShiftConsistencyRequest
    ) -> Iterable[pb.CheckShiftConsistencyResponse]:
        """Call CheckShiftConsistency."""
        return self._stub.CheckShiftConsistency(request, metadata=self._connection.metadata())

    def compare_latency(
        self, request: pb.CompareLatencyRequest
    ) -> Iterable[pb.CompareLatencyResponse]:
        """Call CompareLatency."""
        return self._stub.CompareLatency(request, metadata=self._connection.metadata())

    def describe_model(self, request: pb.DescribeModelRequest) -> Iterator[pb.ModelDescription]:
        """Call DescribeModel."""
        yield self._stub.DescribeModel(request, metadata=self._connection.metadata())
