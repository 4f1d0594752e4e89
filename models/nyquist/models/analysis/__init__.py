"""What a network does to its picture: sizes, receptive fields, gradients, aliasing, cost.

>>> import torch
>>> from nyquist.models.analysis import Window, shift_error
>>> from nyquist.models.layers import BlurPool2d
>>> Window(kernel=3, stride=2, pad_before=1, pad_after=1).output_size(224)
112
>>> noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
>>> shift_error(BlurPool2d(5, pad_mode="circular"), noise) < 0.2
True
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nyquist.models.analysis.aliasing import shift_error, stride_aliasing
    from nyquist.models.analysis.gradient_monitor import GradientMonitor
    from nyquist.models.analysis.gradients import gradient_statistics
    from nyquist.models.analysis.window import Window

__all__ = ["GradientMonitor", "Window", "gradient_statistics", "shift_error", "stride_aliasing"]

_MODULES = {
    "GradientMonitor": "gradient_monitor",
    "Window": "window",
    "gradient_statistics": "gradients",
    "shift_error": "aliasing",
    "stride_aliasing": "aliasing",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 # what the module has under this name
    """Import torch when it is first wanted: a command's help is to be quick."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
