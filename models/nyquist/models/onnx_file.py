"""ONNX files of any exporter, as one piece of bytes. Read without torch."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.checker import ValidationError
from onnx.external_data_helper import load_external_data_for_model


def one_file(path: Path) -> bytes:
    """Return an ONNX file with the weights that lie beside it inside. Else it stays as it came.

    Raises:
        ValueError: it is none; its weights lie outside of its folder, behind a link or nowhere; or
            they do not fit into one file, which holds 2 GB.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        model = onnx.load_from_string(content)
        before = model.ByteSize()
        load_external_data_for_model(model, str(path.parent))
        if model.ByteSize() == before:
            return content
        return model.SerializeToString(deterministic=True)
    except DecodeError as error:
        raise ValueError(f"{path.name} is no ONNX file") from error
    except EncodeError as error:
        raise ValueError(f"{path.name} and its weights take more than 2 GB") from error
    except (ValidationError, FileNotFoundError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the weights of {path.name} cannot be read: {reason}") from error


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators; 0 where it has none of them."""
    return max(
        (each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0
    )


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return what a graph is fed with; old exporters list the weights there too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]
