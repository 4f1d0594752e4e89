"""From a spec to its network: built, loaded, ready to be judged."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from nyquist.models.checkpoints import load_checkpoint
from nyquist.models.networks.architectures import create, create_from_module
from nyquist.models.onnx_checks import check_onnx, ends_in_sigmoid, read_onnx
from nyquist.models.onnx_file import one_file
from nyquist.models.onnx_network import OnnxNetwork
from nyquist.models.outputs import answer_alone, described, ended_by, several_of
from nyquist.models.picture_kinds import picture_kinds
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.programs import read_program
from nyquist.models.samples import read_samples
from nyquist.models.spec import ModelSpec
from nyquist.server.wire.head import Head, HeadKind

SEED = 0
SETTLING_PICTURES = 16


def load_network(spec: ModelSpec) -> nn.Module:
    """Build the network of a spec with its weights, without the notes; see network_with_notes."""
    return network_with_notes(spec)[0]


def network_with_notes(spec: ModelSpec) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the network of a spec with its weights, in evaluation mode, and what is to be told.

    Without a checkpoint its weights come from a fixed seed and its BatchNorm statistics from its
    samples and from extreme pictures: such a network knows nothing, and costs what a trained one
    does.

    Raises:
        ValueError: the architecture, an option or the checkpoint is not what it should be, the
            network takes or gives something else than its spec says, or labels do not fit it.
        TypeError: the architecture has no such option.
        OSError: the checkpoint cannot be read.
    """
    spec = spec.plain
    torch.manual_seed(SEED)
    network = _fresh_network(spec)
    several_of(network).picks = spec.picks
    notes = check_onnx(network, spec.input) if isinstance(network, OnnxNetwork) else ()
    _check_labels(spec, class_count(spec, network.eval()))
    notes += _shared_labels(spec.labels)
    if spec.weights is not None:
        notes += load_checkpoint(network, spec.weights, spec.weights_sha256, spec.weights_key)
    elif spec.program is None and spec.onnx is None:
        prepare = PreprocessedNetwork(nn.Identity(), spec.preprocessing)
        settle_statistics(network, prepare(settling_pictures(spec)))
    left = [name for name, module in network.eval().named_modules() if module.training]
    if left:
        raise ValueError(
            f"the network stays in training mode after eval(): {', '.join(left)}; its answers "
            "would depend on the batch"
        )
    return network, notes


def _fresh_network(spec: ModelSpec) -> nn.Module:
    if spec.program is not None:
        return read_program(spec.program.read_bytes(), spec.program.name)
    if spec.onnx is not None:
        read = read_onnx(one_file(spec.onnx), spec.onnx.name, several=bool(spec.picks))
        read.all_outputs = bool(spec.picks)
        return answer_alone(read) if spec.picks else read
    build = create_from_module if ":" in spec.architecture else create
    network = build(spec.architecture, **spec.options)
    # channels_last would leave as shape arithmetic
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload] # in no stub
    return network


def _shared_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Tell of names that several classes have, as two cranes of ImageNet do."""
    shared = [label for label, count in Counter(labels).items() if count > 1]
    places = (
        f"{label!r} is the label of classes "
        + ", ".join(str(index) for index, one in enumerate(labels) if one == label)
        for label in shared
    )
    return tuple(places)


def class_count(spec: ModelSpec, network: nn.Module) -> int:
    """Return the length of the logits of a network in evaluation mode.

    Raises:
        ValueError: it does not take the input of its spec, or gives something else than logits.
    """
    shape = (2, *spec.input)
    try:
        with torch.inference_mode():
            logits = network(torch.zeros(shape))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the network does not take pictures {shape}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else _given(logits)
        raise ValueError(f"the network must give logits (batch, classes), it gave {found}")
    return logits.shape[1]


def _given(answer: object) -> str:
    """Name what a network gave in place of a tensor, and its entries where it has some."""
    name = type(answer).__name__
    if isinstance(answer, Mapping):
        answers = ", ".join(map(str, answer)) or "nothing"
        return f"a {name} of {answers}, and none is 'logits': choose with --outputs logits=NAME"
    if isinstance(answer, tuple | list):
        return f"a {name} of {described(answer)}: choose with --outputs logits=PLACE"
    return f"a {name}"


def _check_labels(spec: ModelSpec, classes: int) -> None:
    """Hold labels against the answers. A binary head has one, or two: of its absence and of it.

    Raises:
        ValueError: they do not fit, or a kind of head does not fit the answers.
    """
    head = spec.head or ("binary" if classes == 1 else "classes")
    if (head == "binary") != (classes == 1) and head in ("binary", "classes"):
        kinds = "binary" if classes == 1 else "classes, multi-label or embedding"
        raise ValueError(f"the network gives {classes} numbers a picture, head is {head}: {kinds}")
    if head == "embedding" and spec.labels:
        raise ValueError(f"an embedding has no labels, and there are {len(spec.labels)}")
    if head == "binary" and len(spec.labels) in (1, 2):
        return
    if spec.labels and len(spec.labels) != classes:
        raise ValueError(f"there are {len(spec.labels)} labels, and logits of {classes} classes")


def settled(
    spec: ModelSpec, network: nn.Module, pictures: Tensor
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return a spec that says what a network was seen to answer, and what is to be told of it.

    One number a picture is a binary head. Where the answers are probabilities already, they take
    the place of logits among the outputs, and no softmax or sigmoid is put behind them.

    Args:
        spec: as asked for.
        network: of it, with its weights.
        pictures: that the network takes, float32 (B, C, H, W).

    Raises:
        ValueError: probabilities are asked for of an embedding.
    """
    sigmoid = isinstance(network, OnnxNetwork) and ends_in_sigmoid(
        network, dict(spec.picks).get("logits", "logits")
    )
    last = None if spec.head == "embedding" else ended_by(network, pictures, sigmoid=sigmoid)
    usual: HeadKind = "multi-label" if last == "sigmoid" else "classes"
    kind = spec.head or ("binary" if class_count(spec, network) == 1 else usual)
    head = Head(kind, "probabilities" if last else "logits", spec.threshold)
    if kind == "embedding" and "probabilities" in spec.outputs:
        raise ValueError("an embedding has no probabilities; leave them out of the outputs")
    notes = []
    if last:
        notes.append(f"the network ends in {last}: its output is {head.output}, not logits")
    if spec.head is None and head.labelled:
        notes.append(f"its head is {kind}: a label applies above {spec.threshold:g}")
    others = [name for name in spec.outputs if name not in ("logits", head.output)]
    outputs = (head.output, *others)
    return replace(spec, head=kind, values=head.values, outputs=outputs), tuple(notes)


def feature_count(spec: ModelSpec, network: nn.Module) -> int:
    """Return the width of what enters the linear layer that a network runs last."""
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    widths: list[int] = []

    def note(linear: nn.Linear, _inputs: object) -> None:
        widths.append(linear.in_features)

    hooks = [linear.register_forward_pre_hook(note) for linear in linears]
    with torch.inference_mode():
        network(torch.zeros(2, *spec.input))
    for hook in hooks:
        hook.remove()
    return widths[-1]


def settling_pictures(spec: ModelSpec) -> Tensor:
    """Return samples and pictures of every other kind that a build tries, as served.

    Statistics of photographs alone let noise grow by each layer, until what float32 rounds off is
    0.02 of the spread of an EfficientNet's logits, in PyTorch as well as in onnxruntime.
    """
    samples = read_samples(spec, spec.samples).spread(SETTLING_PICTURES).images
    kinds = picture_kinds(samples.numpy(), spec.preprocessing.shift_axes)
    others = [torch.from_numpy(kinds[kind]) for kind in ("noise", "constant", "extreme")]
    return torch.cat([samples, *others])


def settle_statistics(network: nn.Module, pictures: Tensor) -> None:
    """Set the statistics of every BatchNorm to those of these pictures, float32 (B, C, H, W)."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    network.train()
    with torch.inference_mode():
        network(pictures)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
