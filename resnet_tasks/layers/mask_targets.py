"""Mask targets of boxes, sampled from instance masks that are stored in windows.

Source: He et al., Mask R-CNN, ICCV 2017, section 3. The targets are RoIAlign of the mask on the
full image, with about one sample per pixel, and pixel centers at half-integers (`aligned=True`), as
in Detectron2. torchvision's `project_masks_on_boxes` puts the centers at integers, which shifts the
masks by half an input pixel to the top left: too much for objects of 20 pixels.

The samples of a box form a grid, and the bilinear weights of a sample are products of a weight per
axis. A target is therefore `rows @ bitmap @ columns.T`, with one matrix of weights per axis.

Shape glossary: `N` objects, `Q` boxes, `S` bins per axis, `h, w` bitmap of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from resnet_tasks.structures.instance_masks import InstanceMasks

SMALL_SIDE = 128
"""Longest side of a window, in pixels, up to which bitmaps of several objects are padded to a
common size, so that one call computes many targets."""
MAX_GATHERED = 2**22
"""Maximum number of pixels that are gathered for the targets of one call."""


def sample_masks(
    masks: InstanceMasks,
    objects: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    *,
    output_size: int,
) -> Tensor:
    """Sample the masks of objects at the bins of boxes.

    Args:
        masks: Masks of the N objects of one image.
        objects: `(Q,)` int64, index of the object whose mask each box samples.
        boxes: `(Q, 4)` float32 xyxy, pixels of the image.
        image_size: (height, width) of the image; samples at the border read the border pixel.
        output_size: Bins per axis.

    Returns:
        `(Q, S, S)` float32 share of each bin that the mask covers, 0..1.
    """
    targets = boxes.new_zeros((len(boxes), output_size, output_size))
    if not len(boxes):
        return targets
    starts = masks.starts
    # Weights and bitmaps need full precision; autocast would multiply them in bfloat16.
    with torch.no_grad(), torch.autocast(boxes.device.type, enabled=False):
        for positions, size in _group_boxes(masks.windows.tolist(), objects.tolist()):
            rows = torch.tensor(positions, device=boxes.device)
            box_objects = objects[rows]
            windows, box = masks.windows[box_objects], boxes[rows]
            row_weights = _compute_axis_weights(
                box[:, 1::2], windows[:, 1], size[0], image_size[0], output_size
            )
            column_weights = _compute_axis_weights(
                box[:, 0::2], windows[:, 0], size[1], image_size[1], output_size
            )
            if max(size) > SMALL_SIDE:  # all boxes of the group sample one object
                start = int(starts[box_objects[0]])
                bitmaps = masks.pixels[start : start + size[0] * size[1]].view(1, *size)
            else:
                bitmaps = _gather_bitmaps(masks.pixels, starts[box_objects], windows, size)
            sampled = row_weights @ bitmaps.float() @ column_weights.transpose(1, 2)
            targets[rows] = sampled
    return targets


def _group_boxes(
    windows: Sequence[Sequence[int]], objects: Sequence[int]
) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """Group boxes whose targets are computed together.

    Yields:
        Positions of the boxes and the common (height, width) of their bitmaps. Boxes of objects
        with an empty window are skipped, because their target is 0.
    """
    small: list[int] = []
    large: dict[int, list[int]] = {}
    sizes = [(y2 - y1, x2 - x1) for x1, y1, x2, y2 in windows]
    for position, index in enumerate(objects):
        if max(sizes[index]) > SMALL_SIDE:
            large.setdefault(index, []).append(position)
        elif min(sizes[index]) > 0:
            small.append(position)
    for index, positions in large.items():
        yield positions, sizes[index]
    step = MAX_GATHERED // SMALL_SIDE**2
    for first in range(0, len(small), step):
        positions = small[first : first + step]
        heights, widths = zip(*(sizes[objects[position]] for position in positions), strict=True)
        yield positions, (max(heights), max(widths))


def _gather_bitmaps(
    pixels: Tensor, starts: Tensor, windows: Tensor, size: tuple[int, int]
) -> Tensor:
    """Gather the bitmaps of windows, padded to `(Q, h, w)` bool of a common size."""
    heights, widths = windows[:, 3] - windows[:, 1], windows[:, 2] - windows[:, 0]
    y = torch.arange(size[0], device=pixels.device)[None, :, None]
    x = torch.arange(size[1], device=pixels.device)[None, None]
    inside = (y < heights[:, None, None]) & (x < widths[:, None, None])
    places = starts[:, None, None] + y * widths[:, None, None] + x
    return pixels[places.masked_fill(~inside, 0)] & inside


def _compute_axis_weights(
    sides: Tensor, window_starts: Tensor, window_size: int, image_size: int, output_size: int
) -> Tensor:
    """Compute the weight of every pixel of a window in every bin of a box, along one axis.

    Args:
        sides: `(Q, 2)` float32, start and end of the boxes.
        window_starts: `(Q,)` int64, first pixel of the windows.
        window_size: Number of pixels of the (padded) windows.
        image_size: Number of pixels of the image.
        output_size: Number of bins.

    Returns:
        `(Q, S, window_size)` float32; weights of a bin sum to at most 1.
    """
    starts, ends = (sides - 0.5).unbind(1)  # positions of pixel centers become indices
    low, length = starts, ends - starts
    bin_size = length / output_size
    per_bin = bin_size.ceil().clamp(min=1)  # number of samples, as in RoIAlign
    bins = torch.arange(output_size, device=low.device)
    samples = torch.arange(int(per_bin.max()), device=low.device)
    # Same order of operations as in torchvision's operator, so that rounding is the same.
    places = (low[:, None] + bins * bin_size[:, None])[..., None] + (
        (samples + 0.5) * bin_size[:, None] / per_bin[:, None]
    )[:, None]
    # Samples more than one pixel outside count as zero; the others are moved to the border.
    counts = (samples < per_bin[:, None])[:, None] & (places >= -1.0) & (places <= image_size)
    places = places.clamp(min=0.0)
    before = places.floor().clamp(max=image_size - 1)
    share = torch.where(before < image_size - 1, places - before, 0.0)
    share_of_bin = counts / per_bin[:, None, None]
    weights = low.new_zeros((len(low), output_size, window_size + 1))
    for cells, values in ((before, 1 - share), (before + 1, share)):
        index = cells.to(torch.int64) - window_starts[:, None, None]
        # Pixels outside the window are not part of the mask: their weight goes to an extra column.
        index = torch.where((index >= 0) & (index < window_size), index, window_size)
        weights.scatter_add_(2, index, values * share_of_bin)
    return weights[..., :window_size]
