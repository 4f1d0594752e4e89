"""Networks with heads of every kind, as people write them, for pictures of 1x16x16."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Headed(nn.Module):
    """A small classifier. (B, 1, 16, 16) -> (B, count), or as `forward` is overridden."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(32, count)
        with torch.no_grad():  # differences between places, so that answers change with shifts
            places = self.head.weight.view(count, 8, 4)  # 8 channels of 2x2
            places -= places.mean(dim=2, keepdim=True)
            self.head.weight.mul_(20)
            self.head.bias.copy_(torch.linspace(0.1, -0.1, count))

    def forward(self, pictures: Tensor) -> Tensor | dict[str, Tensor]:
        answers: Tensor = self.head(self.body(pictures))
        return answers


class Single(Headed):
    """Gives one number a picture, without an axis of its own. -> (B,)."""

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.body(pictures)).squeeze(1)


class Named(Headed):
    """Gives a dict."""

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.body(pictures)
        return {"features": features, "logits": self.head(features)}


class Several(Headed):
    """Gives a tuple: a map of maxima, and the numbers of the classes."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override] # so it is
        return F.max_pool2d(pictures, 4), self.head(self.body(pictures))


def several() -> nn.Module:
    return Several(3)


def binary() -> nn.Module:
    return Single(1)


def labels() -> nn.Module:
    return Headed(3)


def softmax() -> nn.Module:
    return nn.Sequential(Headed(3), nn.Softmax(dim=1))


def sigmoid() -> nn.Module:
    return nn.Sequential(Headed(3), nn.Sigmoid())


def single_sigmoid() -> nn.Module:
    return nn.Sequential(Headed(1), nn.Sigmoid())


def named() -> nn.Module:
    return Named(3)


def hidden() -> nn.Module:
    class Hidden(Named):
        def forward(self, pictures: Tensor) -> dict[str, Tensor]:
            return {"maps": super().forward(pictures)["logits"]}

    return Hidden(3)
