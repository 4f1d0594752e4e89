"""Networks of torchvision and timm beside ours: same weights, same input, same logits.

random network -> .pth -> models.create(weights=...) -> logits compared -> names and shapes written

Run it in an environment of its own: neither package fits beside the torch that is pinned here.

    python3.11 -m venv interop
    interop/bin/pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
    PYTHONPATH=. interop/bin/python tests/interop/state_dict_layouts.py

It writes tests/models/layouts/*.json, which the test suite compares with our networks.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from nyquist import models

LAYOUTS = Path(__file__).parents[1] / "models" / "layouts"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Pair:
    """A network of a package, and what makes ours the same.

    Attributes:
        package: torchvision or timm.
        theirs: its name there.
        ours: its name here.
        options: of ours.
    """

    package: str
    theirs: str
    ours: str
    options: Mapping[str, str | int] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """Return theirs with fresh weights, for evaluation; no norm and no scale is an identity."""
        torch.manual_seed(0)
        if self.package == "timm":
            network: nn.Module = timm.create_model(self.theirs, pretrained=False)
        else:
            network = torchvision.models.get_model(self.theirs, weights=None)
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 or name.endswith("layer_scale"):
                nn.init.uniform_(parameter, 0.1, 0.6)
        for name, statistic in network.named_buffers():
            if name.endswith("running_mean"):
                nn.init.uniform_(statistic, -0.2, 0.2)
        return network.eval()


PAIRS = (
    *(Pair("torchvision", name, name) for name in ("resnet18", "resnet34", "resnet50")),
    *(Pair("torchvision", name, name) for name in ("resnet101", "resnet152", "mobilenet_v2")),
    Pair("torchvision", "convnext_tiny", "convnext_tiny"),
    Pair("timm", "resnet50", "resnet50"),
    Pair(
        "timm",
        "resnetblur50",
        "resnet50",
        {"downsampling": "blur", "taps": 3, "placement": "timm"},
    ),
    Pair("timm", "resnetaa50", "resnet50", {"downsampling": "avg_pool", "placement": "timm"}),
)


@torch.inference_mode()
def difference(pair: Pair, theirs: nn.Module) -> float:
    """Return the largest difference of a logit, as a share of the largest logit."""
    picture = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(theirs.state_dict(), path)
        ours = models.create(pair.ours, weights=path, **pair.options).eval()
    expected = theirs(picture)
    return ((ours(picture) - expected).abs().max() / expected.abs().max()).item()


def write_layout(pair: Pair, theirs: nn.Module) -> None:
    """Write names and shapes of a state dict, a line each."""
    state = {name: list(value.shape) for name, value in theirs.state_dict().items()}
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(state[name])}" for name in state)
    origin = f"{pair.package} {version(pair.package).split('+')[0]}"
    head = {"origin": origin, "name": pair.ours, "options": dict(pair.options)}
    fields = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
    path = LAYOUTS / f"{pair.package}_{pair.theirs}.json"
    path.write_text(f'{{\n{fields}  "state": {{\n{lines}\n  }}\n}}\n')


def main() -> int:
    """Compare every pair and write its layout; return 1 if one differs."""
    torch.set_num_threads(1)
    worst = 0.0
    for pair in PAIRS:
        theirs = pair.network()
        found = difference(pair, theirs)
        worst = max(worst, found)
        sys.stdout.write(f"{pair.package:12} {pair.theirs:14} {found:.1e}\n")
        write_layout(pair, theirs)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
