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
    from nyquist.models.analysis.aliasing import (
        energy_above,
        fractional_shift,
        frequency_response,
        leaked_energy,
        shift_error,
        stride_aliasing,
    )
    from nyquist.models.analysis.gradient_monitor import GradientMonitor
    from nyquist.models.analysis.gradients import (
        coverage,
        gradient_pattern,
        gradient_statistics,
        input_gradient,
    )
    from nyquist.models.analysis.properties import forward_times, operations, saved_bytes
    from nyquist.models.analysis.receptive_field import closed_form, layer_fields, receptive_fields
    from nyquist.models.analysis.transposed import compare_backward
    from nyquist.models.analysis.window import Window, unread_share

    GradientFlowMonitor = GradientMonitor

__all__ = [
    "GradientFlowMonitor",
    "GradientMonitor",
    "Window",
    "closed_form",
    "compare_backward",
    "coverage",
    "energy_above",
    "forward_times",
    "fractional_shift",
    "frequency_response",
    "gradient_pattern",
    "gradient_statistics",
    "input_gradient",
    "layer_fields",
    "leaked_energy",
    "operations",
    "receptive_fields",
    "saved_bytes",
    "shift_error",
    "stride_aliasing",
    "unread_share",
]

_MODULES = {
    "GradientMonitor": "gradient_monitor",
    "Window": "window",
    "closed_form": "receptive_field",
    "compare_backward": "transposed",
    "coverage": "gradients",
    "energy_above": "aliasing",
    "forward_times": "properties",
    "fractional_shift": "aliasing",
    "frequency_response": "aliasing",
    "gradient_pattern": "gradients",
    "gradient_statistics": "gradients",
    "input_gradient": "gradients",
    "layer_fields": "receptive_field",
    "leaked_energy": "aliasing",
    "operations": "properties",
    "receptive_fields": "receptive_field",
    "saved_bytes": "properties",
    "shift_error": "aliasing",
    "stride_aliasing": "aliasing",
    "unread_share": "window",
}
_ALIASES = {"GradientFlowMonitor": "GradientMonitor"}
"""By the names that courses use."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 # what the module has under this name
    """Import torch when it is first wanted: a command's help is to be quick."""
    found = _ALIASES.get(name, name)
    if found not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[found]}"), found)
