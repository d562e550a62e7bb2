"""Graph of a whole model: pixels in, outputs of all heads out.

Shapes: `B` images, `C` channels, `H, W` padded batch.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from resnet_tasks.exported.manifest import PixelRange
from resnet_tasks.layers.folded_norms import fold_permanently
from resnet_tasks.model import TaskModel


class ExportGraph(nn.Module):
    """Traceable module with normalization, backbone, pyramid and all heads of a model.

    Args:
        model: Model in evaluation mode; it is copied.
        pixels: Range of the input values.

    Attributes:
        output_names: `head.field`, in the order of the outputs of `forward`; empty before the first
            call.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: TaskModel, pixels: PixelRange) -> None:
        super().__init__()
        # Every filter becomes a constant of the graph, which int8 quantization needs as well.
        self.model = copy.deepcopy(model).cpu()
        fold_permanently(self.model)
        self.pixels = pixels
        mean, std = self.model.mean.double(), self.model.std.double()
        span = pixels.high - pixels.low
        # Fold (x - low) / span and (... - mean) / std into one multiplication and one addition.
        self.register_buffer("scale", (1 / (std * span)).float()[:, None, None])
        self.register_buffer("shift", (-(pixels.low / span + mean) / std).float()[:, None, None])
        self.output_names: tuple[str, ...] = ()

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of all heads.

        Args:
            images: `(B, C, H, W)` float32, in the range of `pixels`; H and W multiples of 32.
            sizes: `(B, 2)` int64, (height, width) of each image inside the padded batch.
        """
        features = self.model.compute_features(self._normalize(images, sizes))
        named_outputs = {
            f"{name}.{field}": value
            for name, head in self.model.named_heads.items()
            for field, value in head.outputs(head(features), sizes).items()
        }
        self.output_names = tuple(named_outputs)
        return tuple(named_outputs.values())

    def _normalize(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalize like `TaskModel.normalize`: padding is 0 after normalization."""
        if self.pixels.clip:
            images = images.clamp(self.pixels.low, self.pixels.high)
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
        return (images * self.scale + self.shift) * inside[:, None].to(images.dtype)
