"""What a served network returns: its answer, and on request what lies before and behind it."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nyquist.models.spec import Output, Pick
from nyquist.server.wire.head import CLASSES, Head

Network = TypeVar("Network", bound=nn.Module)
SUM_ERROR = 1e-4
"""Of the probabilities of all classes, by rounding."""


class OutputsNetwork(nn.Module):
    """A network that returns the outputs asked for, in their order.

    Its answer under the name of its head: logits, probabilities or embedding (B, n); probabilities
    (B, n) of logits, by softmax for classes and by sigmoid for labels; features (B, F), what enters
    the linear layer that runs last: the pooled map of a classifier.

    Args:
        network: takes a batch, gives its answer.
        outputs: one or more.
        head: how the answer is read.

    Raises:
        ValueError: features are asked for and the network has no linear layer, or runs none.
    """

    def __init__(self, network: nn.Module, outputs: Sequence[Output], head: Head = CLASSES) -> None:
        super().__init__()
        self.network, self.outputs, self.head = network, tuple(outputs), head
        if "features" in self.outputs:
            heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
            if not heads:
                raise ValueError("features are what enters the last nn.Linear; there is none")
            for module in heads:  # the last that runs overwrites the others
                module.register_forward_pre_hook(self._keep_features)
        self._features: Tensor | None = None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        answer = self.network(image)
        if "features" in self.outputs and self._features is None:
            raise ValueError("features are what enters the last nn.Linear; none of them is run")
        found = {"features": self._features, self.head.output: answer}
        found |= several_of(self).others
        if "probabilities" in self.outputs and self.head.values == "logits":
            found["probabilities"] = answer.sigmoid() if self.head.labelled else answer.softmax(1)
        self._features = None
        return tuple(found[name] for name in self.outputs)

    def _keep_features(self, _module: nn.Module, inputs: tuple[Tensor]) -> None:
        self._features = inputs[0]


class Several:
    """Which of the tensors that a network gives are served, and what they were.

    Attributes:
        picks: of `logits`, the answer, and of others by their names; none: its one tensor.
        others: of the last batch, by name.
    """

    def __init__(self) -> None:
        self.picks: tuple[Pick, ...] = ()
        self.others: dict[str, Tensor] = {}


def several_of(network: nn.Module) -> Several:
    """Return what is served of a network's tensors; a new one of a network of ours."""
    for module in network.modules():
        found = getattr(module, "several", None)
        if isinstance(found, Several):
            return found
    return Several()


def answer_alone(network: Network) -> Network:
    """Let a network return its answer (B, n) and nothing else, however it gives it.

    A dict, or what Hugging Face's models return, has it as `logits`; (B,) is one number a picture.
    The picks of its `several` say where it is else, and what is kept beside it. The names of its
    weights and modules stay.
    """
    network.several = Several()  # type: ignore[assignment] # no module and no tensor
    network.register_forward_hook(_answer)
    return network


def _answer(network: nn.Module, _inputs: object, given: object) -> object:
    several = several_of(network)
    if several.picks:
        found = {name: picked(given, key, name) for name, key in several.picks}
        given = found.pop("logits", None) if "logits" in found else given
        several.others = found
    if isinstance(given, Mapping):
        given = given.get("logits", given)
    if isinstance(given, Tensor) and given.ndim == 1:
        return given[:, None]
    return given


def picked(given: object, key: str, name: str) -> Tensor:
    """Return one of the tensors that a network gave.

    Args:
        given: a mapping or a sequence of tensors.
        key: its name, or its place from 0.
        name: as it is served.

    Raises:
        ValueError: there is none, or it is no float32 tensor; what there is is named.
    """
    named = dict(given) if isinstance(given, Mapping) else {}
    values = (
        [*named.values()] if named else [*given] if isinstance(given, tuple | list) else [given]
    )
    found = named.get(key)
    if found is None and key.isdecimal() and int(key) < len(values):
        found = values[int(key)]
    if not isinstance(found, Tensor) or found.dtype != torch.float32:
        raise ValueError(f"--outputs {name}={key}: the network gives {described(given)}")
    return found


def described(given: object) -> str:
    """Name what a network gave: tensors with their places or names, other things by their class."""
    if isinstance(given, Mapping):
        return ", ".join(f"{name}={_shape(one)}" for name, one in given.items()) or "nothing"
    if isinstance(given, tuple | list):
        return ", ".join(f"{place}={_shape(one)}" for place, one in enumerate(given)) or "nothing"
    return _shape(given)


def _shape(one: object) -> str:
    if not isinstance(one, Tensor):
        return type(one).__name__
    kind = "" if one.dtype == torch.float32 else f" {one.dtype}".replace("torch.", "")
    return f"(batch, {', '.join(map(str, one.shape[1:]))}){kind}"


class _Sigmoids(TorchDispatchMode):
    """Keeps what sigmoids give while it is entered, so that their memory is not used again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's
        self._given: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN204 # as torch declares it
        given = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.sigmoid.default:
            self._given.append(given)
        return given

    def gave(self, answer: Tensor) -> bool:
        """Whether an answer is one of these, or a view of it."""
        place = answer.untyped_storage().data_ptr()
        return any(one.untyped_storage().data_ptr() == place for one in self._given)


def ended_by(
    network: nn.Module, pictures: Tensor, *, sigmoid: bool = False
) -> Literal["softmax", "sigmoid"] | None:
    """Say what made a network's answers probabilities; None where they are none.

    They are probabilities if all lie in 0..1, and either the rows of several add up to 1, or a
    sigmoid gave them: a few logits may lie in 0..1 by chance.

    Args:
        network: that answers.
        pictures: that it takes.
        sigmoid: whether its file says that a sigmoid gave them.
    """
    with torch.no_grad(), _Sigmoids() as sigmoids:
        answer = network(pictures)
    if not ((answer >= 0) & (answer <= 1)).all():
        return None
    if answer.shape[1] > 1 and bool(((answer.sum(dim=1) - 1).abs() <= SUM_ERROR).all()):
        return "softmax"
    return "sigmoid" if sigmoid or sigmoids.gave(answer) else None
