"""MA-Net on the levels of a ResNet.

Fan, Wang, Li, Wang: MA-Net: A Multi-Scale Attention Network for Liver and Tumor Segmentation, IEEE
Access 2020, with the decoder of segmentation_models_pytorch (smp).
"""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from torch import nn

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.decoder_head import BlockDecoderOptions, Channels, DecoderHead
from resnet_tasks.heads.semantic.smp_models import MANET


class MANetOptions(BlockDecoderOptions):
    """Options of the MA-Net head.

    Attributes:
        attention_channels: Channels in which the attention between the cells of the coarsest level
            compares them.
    """

    attention_channels: Channels = 64


@register_head("manet")
class MANet(DecoderHead):
    """Semantic segmentation with a MA-Net decoder over C1..C5.

    Every cell of the coarsest level attends to all others, whose cost grows with the square of the
    number of cells. The blocks weight the channels of their inputs. The stride of a level must be
    twice the previous one.

    Args:
        specs: Channels and stride of the levels C1..C5.
        classes: Class names; a label inside the head is an index into them.
        options: `MANetOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = MANetOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C1", "C2", "C3", "C4", "C5")
    classifier_kernel: ClassVar[int] = 3
    allowed_ratios: ClassVar[tuple[int, ...] | None] = (2,)
    foreign_weights: ClassVar[ForeignWeights] = MANET
    options: MANetOptions

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        blocks = self.options.decoder_channels
        decoder = MAnetDecoder(
            channels,
            blocks,
            n_blocks=self.options.depth,
            pab_channels=self.options.attention_channels,
            interpolation_mode=self.options.interpolation,
        )
        return decoder, blocks[-1]
