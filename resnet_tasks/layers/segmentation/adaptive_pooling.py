"""Adaptive average pooling whose traced form follows the size of the input.

Shape glossary: `B` batch size, `C` channels, `H, W` cells of the map, `S` cells of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.layers.tracing import get_size


class AdaptiveAveragePool(nn.Module):
    """Average pooling to a fixed number of cells, as `torch.nn.AdaptiveAvgPool2d` computes it.

    ONNX has no such operator for maps of any size. In a traced graph, the averages are therefore
    two matrix products whose weights are computed from the size of the map.

    Args:
        size: Cells S per side of the result.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, values: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, S, S)`."""
        if not torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return F.adaptive_avg_pool2d(values, self.size)
        rows, columns = (self._compute_weights(values, axis) for axis in (2, 3))
        return rows @ values @ columns.transpose(0, 1)

    def _compute_weights(self, values: Tensor, axis: int) -> Tensor:
        """Compute `(S, length)` weights of the cells of an axis in every average."""
        length = torch.as_tensor(get_size(values, axis), device=values.device)
        cells = torch.arange(length, device=values.device)[None]  # type: ignore[call-overload]
        targets = torch.arange(self.size, device=values.device)[:, None]
        starts = torch.div(targets * length, self.size, rounding_mode="trunc")
        # The end of a range is rounded up.
        ends = torch.div((targets + 1) * length + (self.size - 1), self.size, rounding_mode="trunc")
        inside: Tensor = ((cells >= starts) & (cells < ends)).to(values.dtype)
        return inside / (ends - starts).to(values.dtype)
