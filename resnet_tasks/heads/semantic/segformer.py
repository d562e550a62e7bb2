"""SegFormer's decoder on the levels of a ResNet.

Xie, Wang, Yu, Anandkumar, Alvarez, Luo: SegFormer: Simple and Efficient Design for Semantic
Segmentation with Transformers, NeurIPS 2021, with the decoder of segmentation_models_pytorch (smp).
The paper's encoder is a transformer; this package has ResNets only.
"""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import nn

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.decoder_head import Channels, DecoderHead, NormDecoderOptions
from resnet_tasks.heads.semantic.smp_models import SEGFORMER


class SegFormerOptions(NormDecoderOptions):
    """Options of the SegFormer head.

    Attributes:
        decoder_channels: Channels to which every level is projected.
    """

    decoder_channels: Channels = 256


@register_head("segformer")
class SegFormer(DecoderHead):
    """Semantic segmentation with a projection of C1..C5 and one fusion, as in SegFormer.

    Logits are computed at a quarter of the resolution of the image. The decoder is light; it has no
    3x3 convolution.

    Args:
        specs: Channels and stride of the levels C1..C5.
        classes: Class names; a label inside the head is an index into them.
        options: `SegFormerOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = SegFormerOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C1", "C2", "C3", "C4", "C5")
    foreign_weights: ClassVar[ForeignWeights] = SEGFORMER
    options: SegFormerOptions

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        options = self.options
        decoder = SegformerDecoder(channels, options.depth, options.decoder_channels)
        return decoder, options.decoder_channels
