"""LinkNet on the levels of a ResNet.

Chaurasia, Culurciello: LinkNet: Exploiting Encoder Representations for Efficient Semantic
Segmentation, VCIP 2017, with the decoder of segmentation_models_pytorch (smp).
"""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from torch import nn

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.decoder_head import Channels, DecoderHead, NormDecoderOptions
from resnet_tasks.heads.semantic.smp_models import LINKNET


class LinkNetOptions(NormDecoderOptions):
    """Options of the LinkNet head.

    Attributes:
        decoder_channels: Channels of the last block, at the resolution of the image.
    """

    decoder_channels: Channels = 32


@register_head("linknet")
class LinkNet(DecoderHead):
    """Semantic segmentation with a LinkNet decoder over C1..C5.

    Each block upsamples with a transposed convolution and adds the next finer level, so that few
    channels are needed at high resolution. The stride of a level must be twice the previous one.

    Args:
        specs: Channels and stride of the levels C1..C5.
        classes: Class names; a label inside the head is an index into them.
        options: `LinkNetOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = LinkNetOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C1", "C2", "C3", "C4", "C5")
    allowed_ratios: ClassVar[tuple[int, ...] | None] = (2,)
    foreign_weights: ClassVar[ForeignWeights] = LINKNET
    options: LinkNetOptions

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        final = self.options.decoder_channels
        return LinknetDecoder(channels, final, n_blocks=self.options.depth), final
