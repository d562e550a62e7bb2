"""Layers on the pooled features of boxes that lie in a fixed number of slots per image.

The second stage of a detector runs on a number of boxes that depends on the image, but the shapes
of an exported graph must not. Here both modes have the same interface.

Shape glossary: `B` images, `C` channels, `Hk, Wk` cells of level k, `R` slots per image, `Q` rows
that are computed, `S` bins per axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from resnet_tasks.layers.roi_align import assign_boxes_to_levels, multilevel_roi_align
from resnet_tasks.layers.tracing import get_size, is_traced

RoiFunction = Callable[..., tuple[Tensor, ...]]
"""Function of pooled features `(Q, C, S, S)`, and of further tensors with one row per box, that
computes tensors with one row per box."""


def apply_to_rois(
    function: RoiFunction,
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    valid: Tensor,
    *row_inputs: Tensor,
    output_size: int = 7,
    sampling_ratio: int = 2,
) -> tuple[Tensor, ...]:
    """Apply layers to the pooled features of boxes that lie in a fixed number of slots per image.

    In eager mode the layers run on the valid boxes only. A traced graph, whose shapes must not
    depend on the data, runs them on all slots.

    Args:
        function: Function that computes every row from the same row of its arguments alone.
        levels: `(B, C, Hk, Wk)` each, finest first.
        strides: Input pixels per cell of each level.
        boxes: `(B, R, 4)` float32 xyxy, input pixels.
        valid: `(B, R)` bool, False in slots without a box.
        row_inputs: `(B, R, ...)` further arguments of `function`.
        output_size: Bins per axis.
        sampling_ratio: Samples per bin and axis.

    Returns:
        `(B, R, ...)` for every tensor of `function`; zeros (in a traced graph: any values) in slots
        without a box.
    """
    pool = _apply_traced if is_traced() else _apply_to_valid
    flat_inputs = [values.flatten(0, 1) for values in row_inputs]
    results = pool(
        function, levels, strides, boxes, valid, flat_inputs, output_size, sampling_ratio
    )
    return tuple(result.view(*boxes.shape[:2], *result.shape[1:]) for result in results)


def _apply_to_valid(
    function: RoiFunction,
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    valid: Tensor,
    row_inputs: Sequence[Tensor],
    output_size: int,
    sampling_ratio: int,
) -> list[Tensor]:
    rows = valid.flatten().nonzero()[:, 0]
    pool = partial(
        multilevel_roi_align,
        levels,
        strides,
        boxes.flatten(0, 1)[rows],
        torch.div(rows, boxes.shape[1], rounding_mode="floor"),
        output_size=output_size,
        sampling_ratio=sampling_ratio,
    )
    if row_inputs:
        results = function(pool(), *(values[rows] for values in row_inputs))
    else:
        # A call with `*` would hold the pooled features until it returns, so that `function` could
        # not free them.
        results = function(pool())
    slots = valid.numel()
    if len(rows) == slots:
        return list(results)
    return [
        values.new_zeros((slots, *values.shape[1:])).index_copy(0, rows, values)
        for values in results
    ]


def _apply_traced(
    function: RoiFunction,
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    _valid: Tensor,
    row_inputs: Sequence[Tensor],
    output_size: int,
    sampling_ratio: int,
) -> list[Tensor]:
    """Apply `function` to all slots, level by level.

    Boxes are sorted by the level that they are pooled from, so that the features of the levels are
    concatenated without being reordered. Every level also pools one extra box, whose result is
    discarded: a level without a box would have an empty activation range during the calibration of
    a quantization, which would spoil the int8 range of all levels.
    """
    number = boxes.shape[1]
    flat_boxes = boxes.reshape(-1, 4)
    box_levels = assign_boxes_to_levels(flat_boxes, strides)
    first = torch.zeros_like(box_levels[:1])
    end = torch.as_tensor(get_size(box_levels, 0)).reshape(1)
    parts, sources, slots = [], [], []
    for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        rows = torch.where(box_levels == index)[0]
        slots.append(torch.cat((rows, end)))
        rows = torch.cat((rows, first))
        sources.append(rows)
        images = torch.div(rows, number, rounding_mode="trunc")
        roi_boxes = flat_boxes[rows].reshape(-1, 4)
        parts.append(_RoiAlign.apply(level, roi_boxes, images, stride, output_size, sampling_ratio))
    source, slot = torch.cat(sources), torch.cat(slots)
    results = function(torch.cat(parts), *(values[source] for values in row_inputs))
    places = torch.arange(slot.shape[0], device=slot.device)
    # Inverse permutation. The extra boxes all scatter into one slot at the end, which is cut off.
    back = torch.zeros_like(slot).scatter(0, slot, places)[: box_levels.shape[0]]
    return [values[back] for values in results]


class _RoiAlign(torch.autograd.Function):
    """ONNX RoiAlign without the half-pixel shift of boxes, as in the original Mask R-CNN."""

    @staticmethod
    def forward(
        _: Any,
        level: Tensor,
        boxes: Tensor,
        images: Tensor,
        stride: int,
        output_size: int,
        sampling_ratio: int,
    ) -> Tensor:
        rois = torch.cat((images[:, None].to(boxes.dtype), boxes), dim=1)
        pooled: Tensor = roi_align(level, rois, output_size, 1.0 / stride, sampling_ratio)
        return pooled

    @staticmethod
    def symbolic(
        g: Any,
        level: Any,
        boxes: Any,
        images: Any,
        stride: int,
        output_size: int,
        sampling_ratio: int,
    ) -> Any:
        return g.op(
            "RoiAlign",
            level,
            boxes,
            images,
            coordinate_transformation_mode_s="output_half_pixel",
            output_height_i=output_size,
            output_width_i=output_size,
            sampling_ratio_i=sampling_ratio,
            spatial_scale_f=1.0 / stride,
        )
