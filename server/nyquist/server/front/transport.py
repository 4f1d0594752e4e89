"""The gRPC server itself: its limits, its port.

The largest request is known before the first one: the models' inputs, times their largest batch.
"""

from math import prod

import grpc

from nyquist.server.artifact.graph_description import Described
from nyquist.server.front.calls import Calls
from nyquist.server.front.settings import CallSettings
from nyquist.server.wire.envelope import ENVELOPE_BYTES
from nyquist.server.wire.listening import address
from nyquist.server.wire.signature import ANY_SIZE, DYNAMIC, TensorSpec
from nyquist.server.wire.tensors import DTYPES

ENCODED_PICTURE_BYTES = 4 * 1024 * 1024
"""What a picture may take as JPEG, PNG or WebP where the input is pixels: 12 megapixels, about."""

LEAST_REQUEST_BYTES = 4 * 1024 * 1024
"""gRPC's own default; less would save nothing."""

TYPED_BYTES = {"UINT8": 2, "UINT16": 3, "UINT32": 5} | dict.fromkeys(
    ("UINT64", "INT8", "INT16", "INT32", "INT64"), 10
)
"""What an element of typed contents takes at most: a varint, and of a negative number all of it."""

HEALTH_ROOM = 64
"""Calls beyond the limit that gRPC lets in, so that a full server still answers for its health."""

KEEPALIVE_S = 60.0
KEEPALIVE_TIMEOUT_S = 20.0


def raw_bytes(manifest: Described, batch_size: int) -> int:
    """Return the size of a batch as raw contents."""
    return sum(
        _elements(tensor, batch_size) * DTYPES[tensor.datatype].itemsize
        for tensor in manifest.inputs
    )


def request_bytes(manifest: Described, max_batch_size: int) -> int:
    """Return the size of a full batch in the largest form that a request may give it.

    Whole numbers take more in typed contents than raw, and UINT8 may come as picture files; the
    rest has the size it has raw.
    """
    size = sum(
        _elements(tensor, max_batch_size)
        * TYPED_BYTES.get(tensor.datatype, DTYPES[tensor.datatype].itemsize)
        for tensor in manifest.inputs
    )
    if manifest.inputs[0].datatype == "UINT8":
        return max(size, max_batch_size * ENCODED_PICTURE_BYTES)
    return size


def _elements(tensor: TensorSpec, batch_size: int) -> int:
    """Return how many a full batch has; strings, of any length, as many as may be."""
    if tensor.datatype == "BYTES":
        return ANY_SIZE
    rows = batch_size if tensor.batch == DYNAMIC else tensor.batch or 1
    return rows * prod(tensor.bounds[1])


def request_limit(largest: int, settings: CallSettings) -> int:
    """Return the limit that requests are held to, given the models' largest."""
    needed = max(largest + ENVELOPE_BYTES, LEAST_REQUEST_BYTES)
    return min(needed, settings.max_message_bytes)


def too_small_for(manifest: Described, max_batch_size: int, limit: int) -> str:
    """Return a line if the limit keeps a model from its full batch, else nothing."""
    raw = raw_bytes(manifest, max_batch_size)
    if raw + ENVELOPE_BYTES <= limit or any(
        tensor.unbounded or tensor.datatype == "BYTES" for tensor in manifest.inputs
    ):
        return ""
    return (
        f"{manifest.name}: a full batch of {max_batch_size} takes {raw} bytes, "
        f"a request may have {limit}; raise --max-message-bytes"
    )


def channel_options(
    settings: CallSettings, max_request_bytes: int, grace_s: float
) -> list[tuple[str, int]]:
    """Return gRPC's own options for these settings; grace_s is what calls of an aged one have."""
    options = {
        "grpc.so_reuseport": 0,  # or a second server would share the port in silence
        "grpc.max_receive_message_length": max_request_bytes,
        "grpc.max_send_message_length": settings.max_message_bytes,
        # Between the two gRPC refuses at random; one limit is one that can be told.
        "grpc.max_metadata_size": settings.max_metadata_bytes,
        "grpc.absolute_max_metadata_size": settings.max_metadata_bytes,
        # Well above the limit of calls: beyond this one gRPC resets streams without a status, and
        # it counts those that have just ended.
        "grpc.max_concurrent_streams": 2 * settings.max_concurrent_rpcs + 1024,
        "grpc.http2.min_ping_interval_without_data_ms": _ms(settings.min_ping_interval_s),
        "grpc.http2.max_ping_strikes": 2,
        # Finds callers that are gone without a word, whose streams would stay for hours.
        "grpc.keepalive_time_ms": _ms(KEEPALIVE_S),
        "grpc.keepalive_timeout_ms": _ms(KEEPALIVE_TIMEOUT_S),
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.max_connection_age_grace_ms": _ms(grace_s),
    }
    if settings.max_connection_age_s:
        options["grpc.max_connection_age_ms"] = _ms(settings.max_connection_age_s)
    return list(options.items())


def make_grpc_server(
    settings: CallSettings, calls: Calls, max_request_bytes: int, grace_s: float
) -> grpc.aio.Server:
    """Return a server of these calls with every limit set, and without a port."""
    return grpc.aio.server(
        handlers=(calls,),
        options=channel_options(settings, max_request_bytes, grace_s),
        maximum_concurrent_rpcs=settings.max_concurrent_rpcs + HEALTH_ROOM,
    )


def add_port(
    server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None
) -> int:
    """Listen there, and return the port, which 0 leaves to the system; of a file it is 0."""
    where = address(host, port)
    if credentials is None:
        bound = server.add_insecure_port(where)
    else:
        bound = server.add_secure_port(where, credentials)
    return 0 if where == host else bound


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
