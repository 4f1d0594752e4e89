"""tritonclient over HTTP, synchronous and on gevent: python triton_http.py TARGET PICTURE."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton  # type: ignore[import-not-found] # of its own environment
from rows import refused, row  # type: ignore[import-not-found] # beside this script

MODEL = "fashion_strided"
ZEROS = np.zeros((2, 1, 48, 48), np.float32)


def tensor(values: Any = ZEROS, datatype: str = "FP32", *, binary: bool = True) -> Any:
    given = triton.InferInput("image", list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    return given


def shape_of(answer: Any) -> tuple[int, ...]:
    return tuple(answer.as_numpy("logits").shape)


def classified(client: Any) -> bool:
    wanted = triton.InferRequestedOutput("logits", class_count=3)
    elements = client.infer(MODEL, [tensor()], outputs=[wanted]).as_numpy("logits")
    return elements.shape == (2, 3) and len(elements[0][0].decode().split(":")) == 3


def pictured(client: Any, file: bytes) -> bool:
    files = np.array([file, file], dtype=np.object_)
    return shape_of(client.infer("efficientnet_lite0", [tensor(files, "BYTES")])) == (2, 1000)


def configured(client: Any) -> bool:
    config = client.get_model_config("efficientnet_lite0")
    metadata = client.get_model_metadata("efficientnet_lite0")
    return (
        config["input"][0]["format"] == "FORMAT_NHWC"
        and config["max_batch_size"] == 16
        and metadata["inputs"][0]["shape"] == [-1, 224, 224, 3]
    )


def reloaded(client: Any) -> bool:
    client.unload_model(MODEL)
    gone = not client.is_model_ready(MODEL)
    client.load_model(MODEL)
    return gone and client.is_model_ready(MODEL)


def indexed(client: Any) -> bool:
    index = client.get_model_repository_index()
    return (MODEL, "1", "READY") in [(one["name"], one["version"], one["state"]) for one in index]


def counted(client: Any) -> bool:
    before = client.get_inference_statistics(MODEL)["model_stats"][0]["inference_count"]
    client.infer(MODEL, [tensor()])
    after = client.get_inference_statistics(MODEL)["model_stats"][0]["inference_count"]
    return bool(after == before + 2)


def traced(client: Any) -> bool:
    client.update_trace_settings(settings={"trace_rate": "7"})
    changed = client.get_trace_settings(model_name=MODEL)["trace_rate"]
    client.update_trace_settings(settings={"trace_rate": None})
    return changed == "7" and client.get_trace_settings()["trace_rate"] == "1000"


def logged(client: Any) -> bool:
    changed = client.update_log_settings({"log_verbose_level": 1})["log_verbose_level"]
    return changed == 1 and client.update_log_settings({"log_verbose_level": 0}) is not None


def main(target: str, picture: str) -> None:
    client = triton.InferenceServerClient(target, network_timeout=60.0)
    send = partial(client.infer, MODEL)
    row("ServerLive", client.is_server_live)
    row("ServerReady", client.is_server_ready)
    row("ModelReady", lambda: client.is_model_ready(MODEL, "1"))
    row("ModelReady, unknown model", lambda: not client.is_model_ready("nobody"))
    row("ServerMetadata", lambda: client.get_server_metadata()["name"] == "nyquist")
    row("ModelMetadata", lambda: client.get_model_metadata(MODEL)["versions"] == ["1"])
    row("ModelConfig", lambda: configured(client))
    row("ModelStatistics", lambda: counted(client))
    row("RepositoryIndex", lambda: indexed(client))
    row("RepositoryModelUnload, -Load", lambda: reloaded(client))
    row("TraceSetting", lambda: traced(client))
    row("LogSettings", lambda: logged(client))
    row("ModelInfer", lambda: shape_of(send([tensor()], request_id="x")) == (2, 10))
    row("ModelInfer, JSON", lambda: shape_of(send([tensor(binary=False)])) == (2, 10))
    plain = [triton.InferRequestedOutput("logits", binary_data=False)]
    row("ModelInfer, answer in JSON", lambda: shape_of(send([tensor()], outputs=plain)) == (2, 10))
    for how in ("gzip", "deflate"):
        both = {"request_compression_algorithm": how, "response_compression_algorithm": how}
        packed = partial(send, [tensor()], **both)
        row(f"ModelInfer, {how}", lambda call=packed: shape_of(call()) == (2, 10))
    options = partial(send, [tensor()], priority=1, timeout=20_000_000)
    row("ModelInfer, priority and timeouts", lambda: shape_of(options()) == (2, 10))
    later = partial(client.async_infer, MODEL, [tensor()])
    row("ModelInfer, async", lambda: shape_of(later().get_result(timeout=30)) == (2, 10))
    row("ModelInfer, classification", lambda: classified(client))
    file = Path(picture).read_bytes()
    row("ModelInfer, picture as BYTES", lambda: pictured(client, file))
    unknown = partial(client.infer, "nobody", [tensor()])
    row("error of an unknown model", lambda: refused(unknown, "404", "'nobody'"))
    region = partial(client.register_system_shared_memory, "r", "/r", 1)
    row("shared memory is refused", lambda: refused(region, "501"))
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
