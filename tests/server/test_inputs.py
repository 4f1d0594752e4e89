"""Inputs of each datatype, of dynamic size, and as picture files, against models worked by hand."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nyquist.server.wire.framing import Framing, PictureInput, told_picture_input
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import start_server
from tests.requests import image_request, logits
from tests.tiny import write_mean_model

Stub = stubs.GRPCInferenceServiceStub
DTYPES = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}


@pytest.fixture(scope="module")
def own(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    folder = tmp_path_factory.mktemp("repository")

    def write(name: str, datatype: str, layout: str, *bounds: tuple[int, int, int]) -> None:
        write_mean_model(repository, folder, name, datatype, layout, bounds[0], bounds[-1])

    write("half", "FP16", "CHW", (1, 4, 4))
    write("bytes", "UINT8", "HWC", (4, 4, 3))
    write("free", "FP32", "CHW", (3, 4, 4), (3, 16, 32))
    write("free_bytes", "UINT8", "HWC", (4, 4, 3), (16, 32, 3))
    write("five_channels", "FP32", "CHW", (5, 4, 4))
    running = start_server(folder)
    with grpc.insecure_channel(running.target) as channel:
        yield Stub(channel)
    assert running.stop() == 0


def raw(model: str, datatype: str, values: NDArray[Any]) -> pb.ModelInferRequest:
    body = values.astype(DTYPES[datatype]).tobytes()
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[body])
    request.inputs.add(name="image", datatype=datatype, shape=values.shape)
    return request


def refusal(stub: Stub, request: pb.ModelInferRequest) -> str:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return failure.value.details() or ""


def png(shade: int, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def test_float16_travels_raw_and_in_no_typed_field(own: Stub) -> None:
    values = np.stack([np.full((1, 4, 4), 0.5), np.full((1, 4, 4), 2.0)])
    assert logits(own.ModelInfer(raw("half", "FP16", values)))[:, 0].tolist() == [0.5, 2.0]
    typed = raw("half", "FP16", values)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.fp32_contents.extend([0.5] * 32)
    assert "expected raw_input_contents for datatype 'FP16'" in refusal(own, typed)


def test_no_datatype_is_converted_to_another(own: Stub) -> None:
    assert "data-type is 'FP16', but model 'free' expects 'FP32'" in refusal(
        own, raw("free", "FP16", np.zeros((1, 3, 4, 4)))
    )


@pytest.mark.parametrize("size", [(4, 4), (4, 32), (7, 9), (16, 32)])
def test_a_dynamic_input_takes_every_size_within_its_bounds(
    own: Stub, size: tuple[int, int]
) -> None:
    request = raw("free", "FP32", np.full((2, 3, *size), 1.5))
    assert logits(own.ModelInfer(request))[:, 0].tolist() == [1.5, 1.5]


@pytest.mark.parametrize("shape", [(3, 3, 4), (3, 17, 4), (3, 4, 33), (1, 4, 4), (3, 4)])
def test_a_dynamic_input_refuses_what_lies_outside_and_names_the_bounds(
    own: Stub, shape: tuple[int, ...]
) -> None:
    told = refusal(own, raw("free", "FP32", np.zeros((1, *shape))))
    assert "Expected [-1, 3, -1, -1] from [3, 4, 4] to [3, 16, 32], got [1, " in told


def test_metadata_and_configuration_show_the_dynamic_axes(own: Stub) -> None:
    metadata = own.ModelMetadata(pb.ModelMetadataRequest(name="free_bytes"))
    assert list(metadata.inputs[0].shape) == [-1, -1, -1, 3]
    config = own.ModelConfig(pb.ModelConfigRequest(name="free_bytes")).config
    assert list(config.input[0].dims) == [-1, -1, 3]


def test_a_picture_file_becomes_what_the_input_asks_for(own: Stub) -> None:
    files = [png(shade, 8, 8) for shade in (0, 51, 255)]
    floats = logits(own.ModelInfer(image_request(files, "half")))[:, 0]
    assert floats.tolist() == pytest.approx([0.0, 0.2, 1.0], abs=1e-3)
    values = logits(own.ModelInfer(image_request(files, "bytes")))[:, 0]
    assert values.tolist() == pytest.approx([0, 51, 255])


def test_a_picture_file_of_a_dynamic_input_keeps_its_size_where_it_may(own: Stub) -> None:
    for size in ((10, 12), (2, 100)):
        answer = own.ModelInfer(image_request([png(51, *size), png(102, 9, 9)], "free_bytes"))
        assert logits(answer)[:, 0].tolist() == pytest.approx([51, 102])


@pytest.mark.parametrize("name", ["half", "bytes", "free", "free_bytes", "five_channels"])
def test_metadata_tells_a_client_how_the_server_reads_picture_files(own: Stub, name: str) -> None:
    metadata = own.ModelMetadata(pb.ModelMetadataRequest(name=name))
    told = {key: value.string_param for key, value in metadata.parameters.items()}
    (tensor,) = metadata.inputs
    whole = Framing("bilinear", crop_share=1.0)
    expected = {
        "half": PictureInput(1, 4, 4, "CHW", "FP16", whole),
        "bytes": PictureInput(3, 4, 4, "HWC", "UINT8", whole),
        "free": PictureInput(3, 4, 4, "CHW", "FP32", whole, most=(16, 32)),
        "free_bytes": PictureInput(3, 4, 4, "HWC", "UINT8", whole, most=(16, 32)),
    }.get(name)
    assert told_picture_input(tensor.datatype, tensor.shape[1:], told) == expected
    assert told.get("image_formats") == (None if expected is None else "JPEG,PNG,WEBP")


def test_picture_files_travel_typed_too(own: Stub) -> None:
    request = image_request([], "bytes")
    del request.raw_input_contents[:]
    request.inputs[0].shape[:] = [1, 1]
    request.inputs[0].contents.bytes_contents.append(png(7, 4, 4))
    (output,) = own.ModelInfer(request).outputs
    assert list(output.contents.fp32_contents) == pytest.approx([7.0] * 10)


def test_a_bad_picture_fails_its_own_request_alone(own: Stub) -> None:
    good, bad = image_request([png(9, 4, 4)], "bytes"), image_request([b"bad"], "bytes")
    calls = [own.ModelInfer.future(bad if n % 3 else good) for n in range(60)]
    outcomes = [call.exception(timeout=60) is None for call in calls]
    assert outcomes == [not n % 3 for n in range(60)]
    assert "image 0: expected a file of format JPEG, PNG, WEBP" in refusal(own, bad)


def test_an_input_that_is_no_picture_takes_no_file(own: Stub) -> None:
    told = refusal(own, image_request([png(9, 4, 4)], "five_channels"))
    assert "data-type is 'BYTES', but model 'five_channels' expects 'FP32'" in told
    metadata = own.ModelMetadata(pb.ModelMetadataRequest(name="five_channels"))
    assert "image_formats" not in metadata.parameters
    pictures = own.ModelMetadata(pb.ModelMetadataRequest(name="bytes")).parameters
    assert pictures["image_formats"].string_param == "JPEG,PNG,WEBP"
