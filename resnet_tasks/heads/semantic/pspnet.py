"""PSPNet on the levels of a ResNet.

Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017, with the decoder of
segmentation_models_pytorch (smp). Its second loss on C4 is the option `auxiliary_level`.

Shape glossary: `B` batch size, `C` channels, `H, W` cells of the level.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPBlock, PSPDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.decoder_head import Channels, DecoderHead, NormDecoderOptions
from resnet_tasks.heads.semantic.smp_models import PSPNET
from resnet_tasks.layers.segmentation.adaptive_pooling import AdaptiveAveragePool

PoolSizes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=16)
]


class PSPNetOptions(NormDecoderOptions):
    """Options of the PSPNet head.

    Attributes:
        dropout: Probability that a whole channel is dropped before the classifier, in training.
        decoder_channels: Channels before the classifier.
        pool_sizes: Cells per side of the pooled maps; their number divides the channels of the
            level.
    """

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    decoder_channels: Channels = 512
    pool_sizes: PoolSizes = (1, 2, 3, 6)


@register_head("pspnet")
class PSPNet(DecoderHead):
    """Semantic segmentation with averages of C5 over a pyramid of regions.

    Logits are computed at the stride of C5. The paper uses `backbone.output_stride` 8; at 32, the
    head can share the backbone with a detector. smp's PSPNet reads C3 by default (`depth: 3`).

    Args:
        specs: Channels and stride of the level C5.
        classes: Class names; a label inside the head is an index into them.
        options: `PSPNetOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = PSPNetOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C5",)
    classifier_kernel: ClassVar[int] = 3
    foreign_weights: ClassVar[ForeignWeights] = PSPNET
    options: PSPNetOptions

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        options, sizes = self.options, self.options.pool_sizes
        pooled_channels, remainder = divmod(channels[-1], len(sizes))
        if remainder:
            raise HeadError(
                f"options of head {type(self).__name__}: pool_sizes has {len(sizes)} values, but "
                f"C{options.depth} has {channels[-1]} channels; use a number of sizes that divides "
                "the channels"
            )
        # The base class applies dropout, drawn from the seeds of the images.
        decoder = PSPDecoder(channels, out_channels=options.decoder_channels, dropout=0.0)
        decoder.psp.blocks = nn.ModuleList(
            _PoolingBlock(channels[-1], pooled_channels, size) for size in sizes
        )
        return decoder, options.decoder_channels


class _PoolingBlock(PSPBlock):  # type: ignore[misc]
    """Block of smp whose traced form accepts maps of any size."""

    def __init__(self, in_channels: int, out_channels: int, pool_size: int) -> None:
        super().__init__(in_channels, out_channels, pool_size)
        self.pool[0] = AdaptiveAveragePool(pool_size)

    def forward(self, values: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, out_channels, H, W)`."""
        pooled = self.pool(values)
        return F.interpolate(pooled, size=values.shape[2:], mode="bilinear", align_corners=True)
