from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from nyquist.export.graph.export import export_graph
from nyquist.models.networks.architectures import create
from nyquist.models.outputs import OutputsNetwork
from nyquist.models.spec import OUTPUTS, Output
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution


class Pooled(nn.Module):
    """The mean of each channel, and a linear layer whose weights are known."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)
        self.head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        self.head.bias.data = torch.tensor([0.0, 1.0, 2.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(dim=(2, 3)))


def picture(first: float, second: float) -> Tensor:
    return torch.tensor([first, second])[None, :, None, None].expand(1, 2, 4, 4).contiguous()


def test_the_outputs_come_in_the_order_asked_for() -> None:
    network = OutputsNetwork(Pooled(), ("logits", "features", "probabilities"))

    logits, features, probabilities = network(picture(3.0, 5.0))

    assert features.tolist() == [[3.0, 5.0]]
    assert logits.tolist() == [[3.0, 6.0, 10.0]]
    assert torch.equal(probabilities, logits.softmax(dim=1))


def test_logits_alone_are_what_the_network_gives() -> None:
    (logits,) = OutputsNetwork(Pooled(), ("logits",))(picture(1.0, 2.0))

    assert logits.tolist() == [[1.0, 3.0, 5.0]]


def test_the_features_of_one_batch_are_not_those_of_the_last() -> None:
    network = OutputsNetwork(Pooled(), ("logits", "features"))

    found = [network(picture(value, value))[1].tolist() for value in (1.0, 2.0, 3.0)]

    assert found == [[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]]


def test_features_of_a_network_without_a_linear_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"what enters the last nn\.Linear; there is none"):
        OutputsNetwork(nn.Conv2d(1, 2, 3), ("logits", "features"))


class Idle(Pooled):
    """Has a linear layer behind the head that it never runs, and may run none."""

    def __init__(self, *, run: bool) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(7, 3)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.run else x.mean(dim=(2, 3))


def test_features_enter_the_linear_layer_that_runs_last() -> None:
    network = OutputsNetwork(Idle(run=True), ("logits", "features"))

    assert network(picture(3.0, 5.0))[1].tolist() == [[3.0, 5.0]]
    with pytest.raises(ValueError, match=r"last nn\.Linear; none of them is run"):
        OutputsNetwork(Idle(run=False), ("logits", "features"))(picture(3.0, 5.0))


@pytest.mark.parametrize("outputs", [OUTPUTS, ("logits", "features"), ("logits", "probabilities")])
@pytest.mark.parametrize(("name", "width"), [("compact", 96)])
def test_an_exported_graph_gives_the_same_outputs_by_their_names(
    name: str, width: int, outputs: Sequence[Output]
) -> None:
    torch.manual_seed(0)
    network = create(name, num_classes=7, in_channels=3).eval()
    pictures = torch.rand(3, 3, 64, 64)
    named = OutputsNetwork(network, outputs).eval()
    engine = Engine(
        export_graph(named, pictures[:2], outputs).graph, Execution(provider="cpu", threads=1), 3
    )

    served = engine.run(pictures.numpy())
    with torch.inference_mode():
        expected = dict(zip(outputs, named(pictures), strict=True))

    assert set(served) == set(outputs)
    for output in outputs:
        scale = expected[output].std().item()
        difference = torch.from_numpy(served[output]) - expected[output]
        assert difference.abs().max() <= 1e-4 * scale
    assert served["logits"].shape == (3, 7)
    if "features" in outputs:
        assert served["features"].shape == (3, width)
    if "probabilities" in outputs:
        assert served["probabilities"].sum(axis=1).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
