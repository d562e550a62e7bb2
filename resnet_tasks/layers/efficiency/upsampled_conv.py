"""A 3x3 convolution of a map upsampled by 2, computed without the upsampled map.

Nearest upsampling repeats every cell four times. Several of the nine products at an output pixel
therefore read the same cell. With the filter taps summed beforehand, each of the four output pixels
of a cell reads 2x2 cells. This is a transposed convolution of stride 2 with 4x4 filters, with 16
products per cell instead of 36. Skip channels that follow the upsampled ones are convolved
separately, so that nothing is concatenated either.

Measured on two cores of an AMD EPYC with AVX-512 bf16, torch 2.15, over the five blocks of a U-Net
on ResNet-34: forward and backward of 4 x 384x480 in 652 ms, where upsampling, concatenation and
convolution take 1,125 ms (fp32; bf16: 299 and 549 ms).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.layers.tracing import is_traced


def can_double(x: Tensor, size: tuple[int, int], filters: Tensor) -> bool:
    """Return whether `convolve_upsampled` can be used and is faster than the plain layers.

    Devices other than the CPU and traced graphs use the plain layers, because the speed was not
    measured there.

    Args:
        x: `(B, C, H, W)` map to upsample.
        size: (height, width) to upsample to.
        filters: Filters of the convolution after the upsampling, of stride 1 and padding 1.
    """
    doubles = size == (2 * x.shape[2], 2 * x.shape[3])
    return doubles and filters.shape[2:] == (3, 3) and x.device.type == "cpu" and not is_traced()


class SummedFilters(NamedTuple):
    """Filters of a 3x3 convolution over an upsampled map and a skip map, as two convolutions.

    Attributes:
        doubled: `(C, O, 4, 4)` filters of the transposed convolution over the map before
            upsampling.
        skip: `(O, D, 3, 3)` filters over the skip map; D is 0 without one.
        bias: `(O,)` bias; None without one.
    """

    doubled: Tensor
    skip: Tensor
    bias: Tensor | None


def make_summed_filters(filters: Tensor, bias: Tensor | None, channels: int) -> SummedFilters:
    """Compute the filters that `convolve_upsampled` takes.

    Args:
        filters: `(O, channels + D, 3, 3)` filters of the plain convolution; the channels of the
            upsampled map come first.
        bias: `(O,)` bias; None without one.
        channels: Channels C of the upsampled map.
    """
    doubled = _sum_taps(_sum_taps(filters[:, :channels], 2), 3).transpose(0, 1)
    skip = filters[:, channels:]
    return SummedFilters(
        doubled.contiguous(memory_format=torch.channels_last),
        skip.contiguous(memory_format=torch.channels_last),
        bias,
    )


def convolve_upsampled(x: Tensor, skip: Tensor | None, filters: SummedFilters) -> Tensor:
    """Compute `conv2d(cat(up(x), skip), filters, bias, padding=1)`; `up` doubles by nearest cell.

    The result is equal up to rounding. Sums of up to four filter taps are rounded once, and in bf16
    so are the contributions of `x` and of `skip`.

    Args:
        x: `(B, C, H, W)` map before upsampling.
        skip: `(B, D, 2H, 2W)` skip map; None without one.
        filters: Result of `make_summed_filters`.

    Returns:
        `(B, O, 2H, 2W)`.
    """
    output = F.conv_transpose2d(x, filters.doubled, filters.bias, stride=2, padding=1)
    if skip is not None:
        # In place is safe: neither convolution saves its output for the backward.
        output += F.conv2d(skip, filters.skip, padding=1)
    return output


def _sum_taps(filters: Tensor, dim: int) -> Tensor:
    """Sum three taps on an upsampled line to the four taps of the transposed convolution."""
    before, middle, after = filters.unbind(dim)
    return torch.stack((after, middle + after, before + middle, before), dim)
