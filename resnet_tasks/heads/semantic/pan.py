"""Pyramid attention network on the levels of a ResNet.

Li, Xiong, An, Wang: Pyramid Attention Network for Semantic Segmentation, BMVC 2018, with the
decoder of segmentation_models_pytorch (smp).

Shape glossary: `B` batch size, `C` channels, `H, W` cells of the coarsest level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.decoder_head import Channels, DecoderHead, DecoderOptions
from resnet_tasks.heads.semantic.smp_models import PAN as PAN_MODEL
from resnet_tasks.layers.tracing import get_size, is_traced

SMALLEST = 8
"""Smallest side of the map that the pyramid attention halves three times, in cells."""


class PANOptions(DecoderOptions):
    """Options of the PAN head.

    Attributes:
        decoder_channels: Channels of the decoder.
        interpolation: Upsampling of coarser levels: `bilinear` or `nearest`.
    """

    decoder_channels: Channels = 32
    interpolation: Literal["bilinear", "nearest"] = "bilinear"


@register_head("pan")
class PAN(DecoderHead):
    """Semantic segmentation with pyramid attention on C5 and attention to C4..C2.

    Logits are computed at the stride of C2. The paper uses `backbone.output_stride` 16. The
    attention halves the coarsest level three times; a level of fewer than 8 cells per side is
    enlarged to 8 for it.

    Args:
        specs: Channels and stride of the levels C2..C5.
        classes: Class names; a label inside the head is an index into them.
        options: `PANOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = PANOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C2", "C3", "C4", "C5")
    classifier_kernel: ClassVar[int] = 3
    foreign_weights: ClassVar[ForeignWeights] = PAN_MODEL
    options: PANOptions

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        options = self.options
        decoder = PANDecoder(
            channels, options.depth, options.decoder_channels, options.interpolation
        )
        return decoder, options.decoder_channels

    def pixel_features(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute `(B, decoder_channels, H/4, W/4)`."""
        coarsest = f"C{self.options.depth}"
        return super().pixel_features({**features, coarsest: _enlarge(features[coarsest])})


def _enlarge(values: Tensor) -> Tensor:
    """Repeat cells of `(B, C, H, W)` so that H and W are at least `SMALLEST`."""
    if is_traced():
        # The graph may get a map of another size. An unchanged size copies the map.
        smallest = torch.tensor(SMALLEST)
        size = [torch.maximum(torch.as_tensor(get_size(values, axis)), smallest) for axis in (2, 3)]
        return F.interpolate(values, size=size, mode="nearest")  # type: ignore[arg-type]
    height, width = values.shape[2:]
    if min(height, width) >= SMALLEST:
        return values
    return F.interpolate(values, size=(max(height, SMALLEST), max(width, SMALLEST)), mode="nearest")
