"""Reference boxes and points of dense detectors, for every cell of every level.

Source: Ren et al., Faster R-CNN, NeurIPS 2015, section 3.1 (anchors); Tian et al., FCOS, ICCV 2019,
section 3.1 (points). Anchors equal those of torchvision's `AnchorGenerator`, whose checkpoints were
trained with them.

Shape glossary: `A` anchors per cell, `Hk, Wk` cells of level k, `Mk` anchors of level k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from resnet_tasks.errors import HeadError
from resnet_tasks.layers.tracing import floor_divide, get_size, is_traced

Number = int | Tensor
"""Length of an axis: a Python number, or a scalar of a traced graph."""


@dataclass(frozen=True)
class AnchorShapes:
    """Anchor shapes of every level.

    Attributes:
        sizes: Sides of the square anchors of each level, input pixels.
        aspect_ratios: Height / width of the anchors, shared by all levels.
    """

    sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...]

    @classmethod
    def from_options(
        cls,
        sizes: Sequence[float | Sequence[float]],
        aspect_ratios: Sequence[float],
        levels: Sequence[str],
        head: str,
    ) -> AnchorShapes:
        """Create the anchor shapes that the options of a head describe.

        Args:
            sizes: One entry per level, finest first: a side or several sides, input pixels.
            aspect_ratios: Height / width of the anchors.
            levels: Names of the levels, for error messages.
            head: Name of the head's class, for error messages.

        Raises:
            HeadError: If the number of sizes does not match the levels, or differs between levels.
        """
        if len(sizes) != len(levels):
            raise HeadError(
                f"options of head {head}: anchor_sizes needs one entry per level "
                f"{', '.join(levels)}, got {len(sizes)}: {sizes}; "
                f"give {len(levels)} numbers, or {len(levels)} lists of numbers"
            )
        per_level = split_anchor_sizes(sizes)
        if len({len(level_sizes) for level_sizes in per_level}) != 1 or not per_level[0]:
            raise HeadError(
                f"options of head {head}: every level needs the same number of anchor_sizes, got "
                f"{sizes}; the levels share one classifier"
            )
        return cls(per_level, tuple(aspect_ratios))

    @property
    def per_cell(self) -> int:
        """Number of anchors per cell, the same on every level."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    def generate(
        self, levels: Sequence[Tensor], padded_size: tuple[Number, Number]
    ) -> tuple[Tensor, ...]:
        """Generate the anchors of all cells of every level.

        Args:
            levels: `(B, channels, Hk, Wk)` each, as many as `sizes`.
            padded_size: (height, width) of the batch in input pixels.

        Returns:
            `(Mk, 4)` float32 xyxy per level, input pixels; ordered by row, column and shape.
        """
        device = levels[0].device
        cells = tuple((get_size(level, 2), get_size(level, 3)) for level in levels)
        if is_traced():
            return _make_anchors(self, cells, padded_size, device)
        return _make_cached_anchors(self, cells, padded_size, device)


def split_anchor_sizes(sizes: Sequence[Any]) -> tuple[tuple[float, ...], ...]:
    """Return the sides of the anchors of each level, every entry of `sizes` as a tuple."""
    return tuple(tuple(size) if isinstance(size, Sequence) else (size,) for size in sizes)


def _make_anchors(
    anchors: AnchorShapes,
    cells: Sequence[tuple[Number, Number]],
    padded_size: tuple[Number, Number],
    device: torch.device,
) -> tuple[Tensor, ...]:
    generator = AnchorGenerator(anchors.sizes, (anchors.aspect_ratios,) * len(anchors.sizes))
    generator.set_cell_anchors(torch.float32, device)
    levels = []
    for (rows, columns), shapes in zip(cells, generator.cell_anchors, strict=True):
        # torchvision's step for P6 is rounded if the level below has an odd size. The rounding is
        # kept, because torchvision's checkpoints were trained with it.
        steps = floor_divide(padded_size[0], rows), floor_divide(padded_size[1], columns)
        corners = _make_grid(rows, columns, steps, device).repeat(1, 2)
        levels.append((corners[:, None] + shapes).flatten(0, 1))
    return tuple(levels)


@lru_cache(maxsize=32)
def _make_cached_anchors(
    anchors: AnchorShapes,
    cells: tuple[tuple[int, int], ...],
    padded_size: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, ...]:
    # Tensors that are created in inference mode could not be saved for a later backward.
    with torch.inference_mode(mode=False):
        return _make_anchors(anchors, cells, padded_size, device)


def generate_points(levels: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, ...]:
    """Generate the center of every cell, the reference point of anchor-free detectors.

    Args:
        levels: `(B, channels, Hk, Wk)` each.
        strides: Input pixels per cell of each level.

    Returns:
        `(Hk * Wk, 2)` float32 (x, y) per level, input pixels; ordered by row and column.
    """
    points = []
    for level, stride in zip(levels, strides, strict=True):
        rows, columns = get_size(level, 2), get_size(level, 3)
        corners = _make_grid(rows, columns, (stride, stride), level.device)
        points.append(corners + stride / 2)
    return tuple(points)


def _make_grid(
    rows: Number, columns: Number, steps: tuple[Number, Number], device: torch.device
) -> Tensor:
    """Return the (x, y) corner of every cell, `(rows * columns, 2)` float32."""
    y = torch.arange(rows, device=device) * steps[0]  # type: ignore[arg-type]
    x = torch.arange(columns, device=device) * steps[1]  # type: ignore[arg-type]
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x.flatten(), grid_y.flatten()), dim=1).to(torch.float32)
