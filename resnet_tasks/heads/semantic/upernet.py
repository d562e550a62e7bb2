"""UPerNet on the levels of a ResNet.

Xiao, Liu, Zhou, Jiang, Sun: Unified Perceptual Parsing for Scene Understanding, ECCV 2018, with the
decoder of segmentation_models_pytorch (smp), which normalizes every level first.
"""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.upernet.decoder import PSPModule, UPerNetDecoder
from torch import nn

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.decoder_head import Channels, DecoderHead, NormDecoderOptions
from resnet_tasks.heads.semantic.pspnet import PoolSizes
from resnet_tasks.heads.semantic.smp_models import UPERNET
from resnet_tasks.layers.segmentation.adaptive_pooling import AdaptiveAveragePool


class UPerNetOptions(NormDecoderOptions):
    """Options of the UPerNet head.

    Attributes:
        decoder_channels: Channels of the pyramid and before the classifier.
        pool_sizes: Cells per side of the pooled maps of the coarsest level.
    """

    decoder_channels: Channels = 256
    pool_sizes: PoolSizes = (1, 2, 3, 6)


@register_head("upernet")
class UPerNet(DecoderHead):
    """Semantic segmentation with a feature pyramid over C2..C5 whose top is pooled over regions.

    Logits are computed at the stride of C2 from all levels of the pyramid.

    Args:
        specs: Channels and stride of the levels C2..C5.
        classes: Class names; a label inside the head is an index into them.
        options: `UPerNetOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = UPerNetOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C2", "C3", "C4", "C5")
    foreign_weights: ClassVar[ForeignWeights] = UPERNET
    options: UPerNetOptions

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        options = self.options
        decoder = UPerNetDecoder(channels, options.depth, options.decoder_channels)
        decoder.psp = PSPModule(channels[-1], options.decoder_channels, options.pool_sizes)
        for block, size in zip(decoder.psp.blocks, options.pool_sizes, strict=True):
            block[0] = AdaptiveAveragePool(size)
        return decoder, options.decoder_channels
