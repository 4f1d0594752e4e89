"""Normalisation of feature maps beyond what torch.nn has."""

from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each position. (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: of the map.
        eps: added to the variance; 1e-6 is that of ConvNeXt, not the default of torch.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        normed = super().forward(x.permute(0, 2, 3, 1))  # over the last axis of (B, H, W, C)
        # contiguous: or the exporter, seeing channels_last, writes shape arithmetic
        return normed.permute(0, 3, 1, 2).contiguous()
