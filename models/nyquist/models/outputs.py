"""What a served network returns: its logits, and on request what lies before and behind them."""

from collections.abc import Sequence

from torch import Tensor, nn

from nyquist.models.spec import Output


class OutputsNetwork(nn.Module):
    """A network that returns the outputs asked for, in their order.

    logits (B, classes); probabilities (B, classes), the softmax of the logits, each row adding up
    to 1; features (B, F), what enters the linear layer that runs last: the pooled map of a
    classifier.

    Args:
        network: takes a batch, gives logits.
        outputs: one or more.

    Raises:
        ValueError: features are asked for and the network has no linear layer, or runs none.
    """

    def __init__(self, network: nn.Module, outputs: Sequence[Output]) -> None:
        super().__init__()
        self.network, self.outputs = network, tuple(outputs)
        if "features" in self.outputs:
            heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
            if not heads:
                raise ValueError("features are what enters the last nn.Linear; there is none")
            for head in heads:  # the last that runs overwrites the others
                head.register_forward_pre_hook(self._keep_features)
        self._features: Tensor | None = None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.network(image)
        if "features" in self.outputs and self._features is None:
            raise ValueError("features are what enters the last nn.Linear; none of them is run")
        found = {"logits": logits, "features": self._features}
        if "probabilities" in self.outputs:
            found["probabilities"] = logits.softmax(dim=1)
        self._features = None
        return tuple(found[name] for name in self.outputs)

    def _keep_features(self, _module: nn.Module, inputs: tuple[Tensor]) -> None:
        self._features = inputs[0]
