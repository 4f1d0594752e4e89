"""Watch the gradients of a network, layer by layer, while it trains.

Tensor hooks on the outputs of leaf modules: full backward hooks raise on an in-place ReLU and on
`out += identity`, since they wrap the output in a view; a tensor hook sees the gradient of the
value as it was when the module returned it.

>>> network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
>>> with GradientMonitor(network) as monitor:
...     network(torch.ones(1, 4)).sum().backward()
>>> [layer.name for layer in monitor.report()]
['0', '1']
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class LayerGradient:
    """The gradient of the loss with respect to the output of one leaf module.

    Attributes:
        name: of the module in its network.
        kind: its class.
        passes: gradients seen; more than one where the module is used again or batches add up.
        mean_magnitude: mean absolute gradient of an element, over all passes.
        deviation: standard deviation of an element, over all passes; 0 for a single element.
        sparsity: share of elements whose gradient is exactly zero, 0..1.
        norm: Euclidean, over all passes.
    """

    name: str
    kind: str
    passes: int
    mean_magnitude: float
    deviation: float
    sparsity: float
    norm: float


class ScalarWriter(Protocol):
    """Takes figures of steps, as TensorBoard's SummaryWriter does."""

    def add_scalar(self, _tag: str, _value: float, _step: int, /) -> object:
        """Take one figure of one step."""


class _Sums:
    """Running sums of one layer, float64 (4,): |g|, g, g squared, zeros; on the layer's device."""

    def __init__(self) -> None:
        self.passes, self.elements = 0, 0
        self.values = torch.zeros(4, dtype=torch.float64)

    def add(self, gradient: Tensor) -> None:
        wide = gradient.detach().double()
        zeros = (wide == 0).sum().double()
        new = torch.stack([wide.abs().sum(), wide.sum(), wide.square().sum(), zeros])
        self.values = self.values.to(new.device) + new  # no transfer back: that would wait
        self.passes += 1
        self.elements += gradient.numel()

    def summary(self, name: str, kind: str) -> LayerGradient:
        magnitude, total, squares, zeros = self.values.tolist()
        variance = max(squares / self.elements - (total / self.elements) ** 2, 0.0)
        return LayerGradient(
            name=name,
            kind=kind,
            passes=self.passes,
            mean_magnitude=magnitude / self.elements,
            deviation=variance**0.5,
            sparsity=zeros / self.elements,
            norm=squares**0.5,
        )


class GradientMonitor:
    """Measures every leaf module of a network between enter and exit, and leaves no hook behind.

        with GradientMonitor(network) as monitor:
            loss(network(x)).backward()
        for layer in monitor.report(): ...

    Over a training, step by step:

        with GradientMonitor(network) as monitor:
            for x in batches:
                loss(network(x)).backward()
                monitor.step()
        monitor.plot(Path("gradients.png"))

    Attributes:
        history: the report of each step that was ended.

    Args:
        network: to watch; any nn.Module.
        writer: gets the norm of each layer at each step, as `gradient_norm/LAYER`: a SummaryWriter
            of TensorBoard, or anything else with its add_scalar.
    """

    def __init__(self, network: nn.Module, writer: ScalarWriter | None = None) -> None:
        self.history: list[tuple[LayerGradient, ...]] = []
        self._network, self._writer = network, writer
        self._handles: list[RemovableHandle] = []
        self._passing: list[RemovableHandle] = []
        self._sums: dict[str, _Sums] = {}
        self._kinds: dict[str, str] = {}

    def __enter__(self) -> Self:
        for name, module in self._network.named_modules():
            if not any(True for _ in module.children()):
                self._watch(name, module)
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in (*self._handles, *self._passing):
            handle.remove()
        self._handles.clear()
        self._passing.clear()

    def report(self) -> tuple[LayerGradient, ...]:
        """Return a line for each layer that got a gradient, in the order of the forward pass."""
        return tuple(
            sums.summary(name, self._kinds[name])
            for name, sums in self._sums.items()
            if sums.passes
        )

    def step(self) -> None:
        """End a step of the training: keep its report, and begin a new one."""
        lines = self.report()
        if self._writer is not None:
            for line in lines:
                self._writer.add_scalar(f"gradient_norm/{line.name}", line.norm, len(self.history))
        self.history.append(lines)
        self._sums.clear()
        self._passing.clear()  # their tensors are gone with the graph

    def plot(self, path: Path) -> None:
        """Draw the norm of each layer's gradient over the steps, as a PNG file.

        Raises:
            ValueError: no step was ended.
        """
        from nyquist.models.analysis import plots  # a watch on a training needs no matplotlib

        plots.plot_gradient_history(self.history, path)

    def _watch(self, name: str, module: nn.Module) -> None:
        self._kinds[name] = type(module).__name__

        def follow(_module: nn.Module, _inputs: object, output: object) -> None:
            sums = self._sums.setdefault(name, _Sums())
            parts = output if isinstance(output, tuple | list) else (output,)
            for part in parts:
                if isinstance(part, Tensor) and part.requires_grad:
                    self._passing.append(part.register_hook(sums.add))

        self._handles.append(module.register_forward_hook(follow))


def own_answer_gradients(network: nn.Module, pictures: Tensor) -> tuple[LayerGradient, ...]:
    """Watch the gradients of the cross entropy of the network's own answers, which needs no label.

    Args:
        network: to watch, in the mode that it is in; its own gradients are dropped afterwards.
        pictures: (B, C, H, W).
    """
    pictures = pictures.detach().clone().requires_grad_()  # so that frozen networks flow, too
    with GradientMonitor(network) as monitor:
        logits = network(pictures)
        if logits.shape[1] == 1:  # one logit stands beside the 0 of what it is not
            logits = F.pad(logits, (1, 0))
        F.cross_entropy(logits, logits.detach().argmax(1)).backward()
    network.zero_grad()
    return monitor.report()
