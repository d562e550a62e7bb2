"""A 3x3 convolution of a map that was doubled in size, without doubling it.

Nearest upsampling repeats every cell four times, so that three of the nine products at a pixel, and
more, are of the same cell. Summed beforehand, the filters have 2x2 cells to look at for each of the
four pixels of a cell: a transposed convolution of stride 2 and 4x4 filters, with 16 products per
cell where there were 36. A skip connection behind the upsampled channels is convolved by itself, so
that nothing is concatenated either.

Measured on two cores of an AMD EPYC with AVX-512 bf16, torch 2.15, over the five blocks of a U-Net
on ResNet-34: forward and backward of 4 x 384x480 in 652 ms where upsampling, concatenating and
convolving took 1,125 ms (fp32; bf16 299 and 549 ms).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.layers.tracing import is_traced


def can_double(x: Tensor, size: tuple[int, int], filters: Tensor) -> bool:
    """Whether `conv_of_doubled` can be used, and wins.

    Other devices, and graphs that are recorded for other programs, keep the plain layers: there it
    was not measured.

    Args:
        x: `(B, C, H, W)`.
        size: (height, width) that it is to have.
        filters: Of the convolution behind, of stride 1 and padding 1.
    """
    doubles = size == (2 * x.shape[2], 2 * x.shape[3])
    return doubles and filters.shape[2:] == (3, 3) and x.device.type == "cpu" and not is_traced()


class SummedFilters(NamedTuple):
    """A 3x3 convolution over a doubled map, and what is behind it, as two over what there is.

    Attributes:
        doubled: `(C, O, 4, 4)`, of the transposed convolution.
        skip: `(O, D, 3, 3)`; D is 0 where nothing is behind.
        bias: `(O,)`.
    """

    doubled: Tensor
    skip: Tensor
    bias: Tensor | None


def make_summed_filters(filters: Tensor, bias: Tensor | None, channels: int) -> SummedFilters:
    """The filters that `conv_of_doubled` takes.

    Args:
        filters: `(O, channels + D, 3, 3)`.
        bias: `(O,)`.
        channels: C, of the map that is doubled; they come first.
    """
    doubled = _sum_taps(_sum_taps(filters[:, :channels], 2), 3).transpose(0, 1)
    skip = filters[:, channels:]
    return SummedFilters(
        doubled.contiguous(memory_format=torch.channels_last),
        skip.contiguous(memory_format=torch.channels_last),
        bias,
    )


def convolve_upsampled(x: Tensor, skip: Tensor | None, filters: SummedFilters) -> Tensor:
    """`conv2d(cat(upsampled x, skip), filters, bias, padding=1)`, upsampled by 2, nearest.

    Equal up to rounding: sums of up to four filters are rounded once, and in bf16 the shares of `x`
    and of `skip` are too.

    Args:
        x: `(B, C, H, W)`.
        skip: `(B, D, 2H, 2W)`, or none.
        filters: From `summed_filters`.

    Returns:
        `(B, O, 2H, 2W)`.
    """
    output = F.conv_transpose2d(x, filters.doubled, filters.bias, stride=2, padding=1)
    if skip is not None:
        # In place: neither layer keeps what it made for its backward.
        output += F.conv2d(skip, filters.skip, padding=1)
    return output


def _sum_taps(filters: Tensor, dim: int) -> Tensor:
    """Three taps on a doubled line as the four of the transposed convolution over its cells."""
    before, middle, after = filters.unbind(dim)
    return torch.stack((after, middle + after, before + middle, before), dim)
