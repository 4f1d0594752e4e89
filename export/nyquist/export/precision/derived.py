"""What every derived graph must still be: one valid file with the tensors of its source."""

import onnx
from onnxruntime.transformers.onnx_model import OnnxModel

from nyquist.export.errors import PrecisionError
from nyquist.export.graph.export import OPSET, strip_metadata


def finish(model: onnx.ModelProto, source: onnx.ModelProto) -> bytes:
    """Strip a derived graph, check it, and return its bytes.

    Args:
        model: derived; is changed.
        source: what it was made from.

    Raises:
        PrecisionError: opset, inputs or outputs are not those of the source, or the checker
            objects.
    """
    strip_metadata(model)
    OnnxModel.graph_topological_sort(model.graph, is_deterministic=True)
    # the quantizer adds its own domain, used or not
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if [(entry.domain, entry.version) for entry in kept] != [("", OPSET)]:
        raise PrecisionError(f"opset {OPSET} was to be kept, got {kept}")
    for tensors, before in (
        (model.graph.input, source.graph.input),
        (model.graph.output, source.graph.output),
    ):
        if [_signature(tensor) for tensor in tensors] != [_signature(old) for old in before]:
            raise PrecisionError(f"tensors {list(before)} were to be kept, got {list(tensors)}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise PrecisionError(f"onnx.checker: {error}") from error
    return model.SerializeToString(deterministic=True)


def _signature(tensor: onnx.ValueInfoProto) -> tuple[str, bytes]:
    return tensor.name, tensor.type.SerializeToString(deterministic=True)
