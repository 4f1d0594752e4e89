"""From the picture that a client sends to what the network was trained on, inside the graph."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.spec import Preprocessing


class PreprocessedNetwork(nn.Module):
    """A network that takes pictures as clients send them.

    CHW: (B, C, H, W) -> what `network` returns; HWC: (B, H, W, C) likewise, of any number type.

    Args:
        network: takes float32 (B, C, H, W).
        preprocessing: what stands in front of it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        self.register_buffer("mean", _of_channels(preprocessing.mean), persistent=False)
        self.register_buffer("scale", _of_channels(preprocessing.scale), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        if self.preprocessing.layout == "HWC":
            # contiguous: or the exporter, seeing channels_last, writes shape arithmetic
            x = x.permute(0, 3, 1, 2).contiguous()
        x = x.float()
        if self.preprocessing.resize is not None:
            size = self.preprocessing.resize
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        if (self.preprocessing.mean, self.preprocessing.scale) != (0.0, 1.0):
            x = (x - self.mean) / self.scale
        return self.network(x)


def _of_channels(value: float | tuple[float, ...]) -> Tensor:
    """Return one value as (), or one for each channel as (C, 1, 1)."""
    tensor = torch.tensor(value, dtype=torch.float32)
    return tensor[:, None, None] if tensor.ndim else tensor
