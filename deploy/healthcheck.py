"""Ask the server of this container whether it serves, by grpc.health.v1; exit 0 or 1."""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0


def main() -> int:
    """Return 0 if the server answers SERVING in time, else 1 with the reason on stderr."""
    target = f"127.0.0.1:{os.environ.get('NYQUIST_PORT', '8001')}"
    try:
        with grpc.insecure_channel(target) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S
            )
    except grpc.RpcError as error:
        reason = error.code().name
    else:
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return 0
        reason = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stderr.write(f"{target}: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
