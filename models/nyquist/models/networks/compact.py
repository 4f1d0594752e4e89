"""The compact classifier: four stages of conv -> norm -> ReLU -> halving, for small pictures."""

from collections.abc import Sequence

from torch import Tensor, nn

from nyquist.models.layers.blocks import downsampling_block
from nyquist.models.layers.downsampling import Downsampling

WIDTHS = (16, 32, 64, 96)


class CompactClassifier(nn.Module):
    """Stages, global average pooling, linear. (B, in_channels, H, W) -> logits (B, num_classes).

    With circular padding and H, W multiples of 2 ** len(widths), the polyphase member of the
    family does not change its logits under circular shifts.

    Args:
        downsampling: how each stage halves its map.
        widths: output channels of each stage.
        num_classes: length of the logits.
        in_channels: channels of the picture.
    """

    def __init__(
        self,
        downsampling: Downsampling,
        widths: Sequence[int] = WIDTHS,
        num_classes: int = 10,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        pairs = zip((in_channels, *widths), widths, strict=False)
        self.stages = nn.Sequential(*(downsampling_block(a, b, downsampling) for a, b in pairs))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(x)  # (B, widths[-1], H / 16, W / 16)
        return self.classifier(features.mean(dim=(2, 3)))
