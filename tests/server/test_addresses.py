"""Addresses other than those of IPv4, on either transport."""

from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import start_server

pytestmark = pytest.mark.usefixtures("transport")


def test_calls_and_scrapes_are_answered_over_ipv6(one_model: Path) -> None:
    server = start_server(one_model, ("--drain-s", "0", "--host", "::1"))
    try:
        with grpc.insecure_channel(f"[::1]:{server.port}") as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            assert stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
        scrape = HTTPConnection("::1", server.metrics_port, timeout=20)
        scrape.request("GET", "/v2/health/ready")
        assert scrape.getresponse().status == 200
        scrape.close()
    finally:
        assert server.stop() == 0
