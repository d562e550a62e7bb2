"""U-Net++ on the levels of a ResNet.

Zhou, Siddiquee, Tajbakhsh, Liang: UNet++: A Nested U-Net Architecture for Medical Image
Segmentation, DLMIA 2018, with the decoder of segmentation_models_pytorch (smp), which has no deep
supervision.
"""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from torch import nn

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.decoder_head import BlockDecoderOptions, DecoderHead
from resnet_tasks.heads.semantic.smp_models import UNETPLUSPLUS


class UNetPlusPlusOptions(BlockDecoderOptions):
    """Options of the U-Net++ head."""


@register_head("unetplusplus")
class UNetPlusPlus(DecoderHead):
    """Semantic segmentation with a U-Net++ decoder over C1..C5.

    Nested blocks between encoder and decoder refine every skip connection. This needs more memory
    and time than `unet`. The stride of a level must be twice the previous one.

    Args:
        specs: Channels and stride of the levels C1..C5.
        classes: Class names; a label inside the head is an index into them.
        options: `UNetPlusPlusOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = UNetPlusPlusOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C1", "C2", "C3", "C4", "C5")
    classifier_kernel: ClassVar[int] = 3
    allowed_ratios: ClassVar[tuple[int, ...] | None] = (2,)
    foreign_weights: ClassVar[ForeignWeights] = UNETPLUSPLUS
    options: UNetPlusPlusOptions

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        blocks = self.options.decoder_channels
        decoder = UnetPlusPlusDecoder(
            channels,
            blocks,
            n_blocks=self.options.depth,
            interpolation_mode=self.options.interpolation,
        )
        return decoder, blocks[-1]
