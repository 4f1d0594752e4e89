"""tritonclient, synchronous: python triton.py TARGET PICTURE."""

import sys
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import tritonclient.grpc as triton  # type: ignore[import-not-found] # of its own environment
from rows import refused, row  # type: ignore[import-not-found] # beside this script

MODEL = "fashion_strided"
ZEROS = np.zeros((2, 1, 48, 48), np.float32)


def tensor(values: Any = ZEROS, datatype: str = "FP32") -> Any:
    given = triton.InferInput("image", list(values.shape), datatype)
    given.set_data_from_numpy(values)
    return given


def shape_of(answer: Any, output: str = "logits") -> tuple[int, ...]:
    return tuple(answer.as_numpy(output).shape)


def called_back(start: Any) -> Any:
    """Return what a callback gets: a result, or raise its error."""
    got: SimpleQueue[Any] = SimpleQueue()
    start(lambda result, error: got.put((result, error)))
    result, error = got.get(timeout=30)
    if error is not None:
        raise error
    return result


def streamed(client: Any) -> bool:
    """Three requests in one stream, the second of them bad."""
    got: SimpleQueue[Any] = SimpleQueue()
    client.start_stream(lambda result, error: got.put((result, error)))
    for number, model in enumerate([MODEL, "nobody", MODEL]):
        client.async_stream_infer(model, [tensor()], request_id=str(number))
    answers = [got.get(timeout=30) for _ in range(3)]
    client.stop_stream()
    ids = [answer.get_response().id for answer, error in answers if error is None]
    return ids == ["0", "2"] and "'nobody' is not found" in str(answers[1][1])


def classified(client: Any) -> bool:
    wanted = triton.InferRequestedOutput("logits", class_count=3)
    elements = client.infer(MODEL, [tensor()], outputs=[wanted]).as_numpy("logits")
    return elements.shape == (2, 3) and len(elements[0][0].decode().split(":")) == 3


def pictured(client: Any, file: bytes) -> bool:
    files = np.array([file, file], dtype=np.object_)
    flat = client.infer("efficientnet_lite0", [tensor(files, "BYTES")])
    columns = client.infer("efficientnet_lite0", [tensor(files.reshape(2, 1), "BYTES")])
    return shape_of(flat) == shape_of(columns) == (2, 1000)


def configured(client: Any) -> bool:
    """What NVIDIA's image_client.py reads before it sends a picture."""
    config = client.get_model_config("efficientnet_lite0").config
    metadata = client.get_model_metadata("efficientnet_lite0")
    return (
        config.input[0].format == 1  # FORMAT_NHWC
        and config.max_batch_size == 16
        and list(metadata.inputs[0].shape) == [-1, 224, 224, 3]
        and metadata.outputs[0].datatype == "FP32"
    )


def reloaded(client: Any) -> bool:
    client.unload_model(MODEL)
    gone = not client.is_model_ready(MODEL)
    client.load_model(MODEL)
    return gone and client.is_model_ready(MODEL)


def indexed(client: Any) -> bool:
    index = client.get_model_repository_index().models
    return (MODEL, "1", "READY") in [(one.name, one.version, one.state) for one in index]


def counted(client: Any) -> bool:
    before = client.get_inference_statistics(MODEL).model_stats[0].inference_count
    client.infer(MODEL, [tensor()])
    return client.get_inference_statistics(MODEL).model_stats[0].inference_count == before + 2


def traced(client: Any) -> bool:
    client.update_trace_settings(settings={"trace_rate": "7"})
    changed = client.get_trace_settings(model_name=MODEL).settings["trace_rate"].value[0]
    client.update_trace_settings(settings={"trace_rate": None})
    return changed == "7" and client.get_trace_settings().settings["trace_rate"].value[0] == "1000"


def logged(client: Any) -> bool:
    client.update_log_settings({"log_verbose_level": 1, "log_info": True})
    changed = client.get_log_settings().settings["log_verbose_level"].uint32_param
    client.update_log_settings({"log_verbose_level": 0})
    return changed == 1


def main(target: str, picture: str) -> None:
    client = triton.InferenceServerClient(target)
    send = partial(client.infer, MODEL)
    row("ServerLive", client.is_server_live)
    row("ServerReady", client.is_server_ready)
    row("ModelReady", lambda: client.is_model_ready(MODEL, "1"))
    row("ModelReady, unknown model", lambda: not client.is_model_ready("nobody"))
    row("ServerMetadata", lambda: client.get_server_metadata().name == "nyquist")
    row("ModelMetadata", lambda: client.get_model_metadata(MODEL).versions == ["1"])
    row("ModelConfig", lambda: configured(client))
    row("ModelStatistics", lambda: counted(client))
    row("RepositoryIndex", lambda: indexed(client))
    row("RepositoryModelUnload, -Load", lambda: reloaded(client))
    row("TraceSetting", lambda: traced(client))
    row("LogSettings", lambda: logged(client))
    row("ModelInfer", lambda: shape_of(send([tensor()])) == (2, 10))
    for how in ("gzip", "deflate"):
        compressed = partial(send, [tensor()], compression_algorithm=how)
        row(f"ModelInfer, {how}", lambda call=compressed: shape_of(call()) == (2, 10))
    options = partial(send, [tensor()], priority=1, timeout=20_000_000, client_timeout=20.0)
    row("ModelInfer, priority and timeouts", lambda: shape_of(options()) == (2, 10))
    later = partial(client.async_infer, MODEL, [tensor()])
    row(
        "ModelInfer, async",
        lambda: shape_of(called_back(lambda got: later(callback=got))) == (2, 10),
    )
    row("ModelInfer, classification", lambda: classified(client))
    file = Path(picture).read_bytes()
    row("ModelInfer, picture as BYTES", lambda: pictured(client, file))
    row("ModelStreamInfer", lambda: streamed(client))
    unknown = partial(client.infer, "nobody", [tensor()])
    row("error of an unknown model", lambda: refused(unknown, "NOT_FOUND", "'nobody'"))
    region = partial(client.register_system_shared_memory, "r", "/r", 1)
    row("shared memory is refused", lambda: refused(region, "UNIMPLEMENTED"))
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
