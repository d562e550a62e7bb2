"""RoIAlign over a whole pyramid in one call: every box reads the level that matches its size.

Source: He et al., Mask R-CNN, ICCV 2017, section 3 (RoIAlign); Lin et al., Feature Pyramid
Networks, CVPR 2017, equation 1 (level of a box).

The bilinear samples of a bin are a weighted sum of feature cells. One `embedding_bag` over the
channels-last rows of all levels therefore computes all bins. On a CPU this is several times faster
than torchvision's compiled operator, especially in the backward. Other devices use the operator.

Shape glossary: `B` images, `C` channels, `Hk, Wk` cells of level k, `R` boxes, `S` bins per axis,
`G` samples per bin and axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torchvision.ops import roi_align as compiled_roi_align

CANONICAL_SIZE = 224.0  # pixels, side of the ImageNet crop (equation 1)
CANONICAL_LEVEL = 4  # level of a box of the canonical size (equation 1)
LEVEL_EPSILON = 1e-6  # as in torchvision, so that a box of exactly 224 reads P4


def assign_boxes_to_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the level that each box reads (equation 1).

    Args:
        boxes: `(R, 4)` float32 xyxy, input pixels.
        strides: Strides of the levels, finest first; powers of two.

    Returns:
        `(R,)` int64, index into `strides`.
    """
    finest, coarsest = round(math.log2(strides[0])), round(math.log2(strides[-1]))
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE) + LEVEL_EPSILON)
    return level.clamp(finest, coarsest).to(torch.int64) - finest


def multilevel_roi_align(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    images: Tensor,
    *,
    output_size: int = 7,
    sampling_ratio: int = 2,
) -> Tensor:
    """Resample the features inside boxes to a fixed grid, each from the level that matches the box.

    Equal to torchvision's `MultiScaleRoIAlign` (`aligned=False`).

    Args:
        levels: `(B, C, Hk, Wk)` each, finest first; channels-last memory is the fastest.
        strides: Input pixels per cell of each level.
        boxes: `(R, 4)` float32 xyxy, input pixels.
        images: `(R,)` int64, index of the image of each box.
        output_size: Bins per axis.
        sampling_ratio: Samples per bin and axis.

    Returns:
        `(R, C, S, S)` in the dtype of the levels.
    """
    box_levels = assign_boxes_to_levels(boxes, strides)
    pool = roi_align_rows if boxes.device.type == "cpu" else roi_align_compiled
    return pool(levels, strides, boxes, images, box_levels, output_size, sampling_ratio)


@dataclass(frozen=True)
class RoiRequest:
    """Boxes to pool.

    Attributes:
        boxes: `(R, 4)` float32 xyxy, input pixels.
        images: `(R,)` int64, index of the image of each box.
        output_size: Bins per axis.
    """

    boxes: Tensor
    images: Tensor
    output_size: int


def pool_together(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    requests: Sequence[RoiRequest],
    *,
    sampling_ratio: int = 2,
) -> list[Tensor]:
    """Compute `multilevel_roi_align` of several sets of boxes from the same levels.

    On a CPU the levels then get one gradient instead of one per set, which saves its memory.

    Args:
        levels: `(B, C, Hk, Wk)` each, finest first; channels-last memory is the fastest.
        strides: Input pixels per cell of each level.
        requests: Sets of boxes.
        sampling_ratio: Samples per bin and axis.

    Returns:
        `(R, C, S, S)` of each set, in the dtype of the levels.
    """
    box_levels = [assign_boxes_to_levels(request.boxes, strides) for request in requests]
    if levels[0].device.type == "cpu":
        return _pool_requests(levels, strides, requests, box_levels, sampling_ratio)
    return [
        roi_align_compiled(
            levels,
            strides,
            request.boxes,
            request.images,
            level_of_box,
            request.output_size,
            sampling_ratio,
        )
        for request, level_of_box in zip(requests, box_levels, strict=True)
    ]


def roi_align_compiled(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    images: Tensor,
    box_levels: Tensor,
    output_size: int,
    sampling_ratio: int,
) -> Tensor:
    """Compute `multilevel_roi_align` with torchvision's operator, level by level.

    Args:
        levels: `(B, C, Hk, Wk)` each, finest first.
        strides: Input pixels per cell of each level.
        boxes: `(R, 4)` float32 xyxy, input pixels.
        images: `(R,)` int64, index of the image of each box.
        box_levels: `(R,)` int64, index of the level of each box.
        output_size: Bins per axis.
        sampling_ratio: Samples per bin and axis.
    """
    channels = levels[0].shape[1]
    pooled = levels[0].new_zeros((len(boxes), channels, output_size, output_size))
    rois = torch.cat((images[:, None].to(boxes.dtype), boxes), dim=1)
    for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        rows = torch.where(box_levels == index)[0]
        values = compiled_roi_align(
            level, rois[rows].to(level.dtype), output_size, 1.0 / stride, sampling_ratio
        )
        pooled = pooled.index_copy(0, rows, values.to(pooled.dtype))
    return pooled


def roi_align_rows(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    images: Tensor,
    box_levels: Tensor,
    output_size: int,
    sampling_ratio: int,
) -> Tensor:
    """Compute `multilevel_roi_align` in plain PyTorch.

    Args:
        levels: `(B, C, Hk, Wk)` each, finest first.
        strides: Input pixels per cell of each level.
        boxes: `(R, 4)` float32 xyxy, input pixels.
        images: `(R,)` int64, index of the image of each box.
        box_levels: `(R,)` int64, index of the level of each box.
        output_size: Bins per axis.
        sampling_ratio: Samples per bin and axis.
    """
    request = RoiRequest(boxes, images, output_size)
    return _pool_requests(levels, strides, [request], [box_levels], sampling_ratio)[0]


def _pool_requests(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    requests: Sequence[RoiRequest],
    box_levels: Sequence[Tensor],
    sampling_ratio: int,
) -> list[Tensor]:
    """Pool several sets of boxes from the same levels, which get one gradient."""
    # One image at a time, so that the backward keeps the sorted indices and sums of one image only.
    images_per_level = [_split_images(level) for level in levels]
    rows_by_image = [
        [torch.where(request.images == index)[0] for index in range(len(levels[0]))]
        for request in requests
    ]
    pooled = [
        _pool_image(
            [level[index] for level in images_per_level],
            strides,
            [
                (request.boxes[rows[index]], level_of_box[rows[index]], request.output_size)
                for request, level_of_box, rows in zip(
                    requests, box_levels, rows_by_image, strict=True
                )
            ],
            sampling_ratio,
        )
        for index in range(len(levels[0]))
    ]
    return [
        _join_images([image[i] for image in pooled], rows).permute(0, 3, 1, 2)
        for i, rows in enumerate(rows_by_image)
    ]


def _join_images(pooled: Sequence[Tensor], positions: Sequence[Tensor]) -> Tensor:
    """Join the boxes of all images in the order in which they were given."""
    if len(pooled) == 1:
        return pooled[0]
    joined, order = torch.cat(list(pooled)), torch.cat(list(positions))
    if not torch.equal(order, torch.arange(len(order), device=order.device)):
        joined = joined[order.argsort()]
    return joined


def _split_images(level: Tensor) -> tuple[Tensor, ...]:
    """Split `(B, C, H, W)` into `B` images `(H, W, C)`."""
    if torch.is_grad_enabled() and level.requires_grad:
        images: tuple[Tensor, ...] = _SplitImages.apply(level)
        return images
    return level.permute(0, 2, 3, 1).unbind()


class _SplitImages(torch.autograd.Function):
    """Split into images whose gradient is not a view, so that autograd can add to it in place.

    The gradient of `permute` and `unbind` is a view. If other layers read the level too, autograd
    would then allocate a third map as large as the finest level at the peak of the backward.
    """

    @staticmethod
    def forward(_ctx: Any, level: Tensor) -> tuple[Tensor, ...]:
        return level.permute(0, 2, 3, 1).unbind()

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        height, width, channels = gradients[0].shape
        level_gradient = torch.empty(
            (len(gradients), channels, height, width),
            dtype=gradients[0].dtype,
            device=gradients[0].device,
            memory_format=torch.channels_last,
        )
        torch.stack(gradients, out=level_gradient.permute(0, 2, 3, 1))
        return level_gradient


def _pool_image(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    requests: Sequence[tuple[Tensor, Tensor, int]],
    sampling_ratio: int,
) -> list[Tensor]:
    """Compute the `(R, S, S, C)` bins of one image, whose levels are `(Hk, Wk, C)`.

    Args:
        levels: Levels of the image.
        strides: Input pixels per cell of each level.
        requests: (boxes `(R, 4)`, level of each box `(R,)`, bins per axis) of each set of boxes.
        sampling_ratio: Samples per bin and axis.
    """
    channels = levels[0].shape[2]
    table = torch.cat([level.reshape(-1, channels) for level in levels])
    if table.requires_grad and torch.is_grad_enabled():
        # The gradient of a cell sums over many boxes, for which bfloat16 is too coarse.
        table = table.float()
    sizes = [(level.shape[0], level.shape[1]) for level in levels]
    bins = [_sample_bins(sizes, strides, *request, sampling_ratio) for request in requests]
    pooled = F.embedding_bag(
        # The indices are saved for the backward and sorted there; int32 halves their memory.
        torch.cat([cells for cells, _ in bins]),
        table,
        mode="sum",
        per_sample_weights=torch.cat([weights for _, weights in bins]).to(table.dtype),
    )
    # The table is as large as all levels, in float32, and the backward does not need it.
    del table
    pooled = pooled.to(levels[0].dtype)
    shapes = [(len(boxes), size, size, channels) for boxes, _, size in requests]
    if len(shapes) == 1:
        return [pooled.view(shapes[0])]
    parts = torch.split(pooled, [len(cells) for cells, _ in bins])
    # Copies, because a part would keep the memory of all parts.
    return [part.clone().view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _sample_bins(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    boxes: Tensor,
    box_levels: Tensor,
    output_size: int,
    sampling_ratio: int,
) -> tuple[Tensor, Tensor]:
    """Compute the cells of all levels that every bin reads, and their weights.

    Args:
        sizes: (rows, columns) of each level.
        strides: Input pixels per cell of each level.
        boxes: `(R, 4)` float32 xyxy, input pixels.
        box_levels: `(R,)` int64, index of the level of each box.
        output_size: Bins per axis.
        sampling_ratio: Samples per bin and axis.

    Returns:
        `(R * S * S, (2G)^2)` int32 cells and float32 weights.
    """
    first_rows = [
        sum(rows * columns for rows, columns in sizes[:index]) for index in range(len(sizes))
    ]

    def gather_per_box(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=boxes.device)[box_levels]

    height, width = (gather_per_box([size[axis] for size in sizes]) for axis in (0, 1))
    scaled = boxes * (1.0 / gather_per_box(strides))[:, None]
    rows, row_weights = _sample_axis(
        scaled[:, 1], scaled[:, 3], height, output_size, sampling_ratio
    )
    columns, column_weights = _sample_axis(
        scaled[:, 0], scaled[:, 2], width, output_size, sampling_ratio
    )
    start = gather_per_box(first_rows)
    rows = rows * width[:, None, None] + start[:, None, None]
    # (R, S, 1, 2G, 1) with (R, 1, S, 1, 2G): the weight of a cell is the product of both axes.
    cells = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    per_bin = (2 * sampling_ratio) ** 2
    return cells.reshape(-1, per_bin).to(torch.int32), weights.reshape(-1, per_bin)


def _sample_axis(
    low: Tensor, high: Tensor, cells: Tensor, output_size: int, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    """Compute the cells and weights that the bins of every box read along one axis.

    Args:
        low: `(R,)` float32, start of the boxes in cells.
        high: `(R,)` float32, end of the boxes in cells.
        cells: `(R,)` int64, number of cells of the level along this axis.
        output_size: Number of bins.
        sampling_ratio: Samples per bin.

    Returns:
        `(R, S, 2G)` int64 cell indices and `(R, S, 2G)` float32 weights, which sum to at most 1 per
        bin.
    """
    bin_size = (high - low).clamp(min=1.0) / output_size
    steps = torch.arange(output_size * sampling_ratio, device=low.device, dtype=low.dtype)
    places = low[:, None] + (steps + 0.5) * (bin_size / sampling_ratio)[:, None]
    limit = cells[:, None].to(low.dtype)
    # Samples more than one cell outside count as zero; the others are moved to the border.
    inside = (places >= -1.0) & (places <= limit)
    places = torch.minimum(places.clamp(min=0.0), limit - 1)
    before = places.floor()
    after = torch.minimum(before + 1, limit - 1)
    share = places - before
    weights = torch.stack((1 - share, share), dim=2) * (inside / sampling_ratio)[:, :, None]
    both = torch.stack((before, after), dim=2).to(torch.int64)
    shape = (len(low), output_size, 2 * sampling_ratio)
    return both.view(shape), weights.view(shape)
