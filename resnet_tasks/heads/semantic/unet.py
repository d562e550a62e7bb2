"""U-Net on the levels of a ResNet.

Ronneberger, Fischer, Brox: U-Net, 2015, with the decoder of segmentation_models_pytorch (smp): five
blocks of nearest upsampling, skip connection and two 3x3 convolutions. The encoder is the backbone.

Shape glossary: `B` batch size, `H, W` padded image, `Hk, Wk` cells of level k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.foreign_weights import SmpUNet
from resnet_tasks.heads.semantic.semantic_head import SemanticHead, SemanticOptions
from resnet_tasks.layers.efficiency.recomputation import apply_with_recomputation
from resnet_tasks.layers.efficiency.upsampled_conv import (
    SummedFilters,
    can_double,
    convolve_upsampled,
    make_summed_filters,
)
from resnet_tasks.layers.folded_norms import FoldingConv2d, fold_norms
from resnet_tasks.layers.norms import batch_to_group_norm, choose_num_groups
from resnet_tasks.layers.strides import check_strides
from resnet_tasks.structures.feature_spec import FeatureSpec

Channels = Annotated[int, Field(ge=1, le=2048)]


class UNetOptions(SemanticOptions):
    """Options of the U-Net head.

    Attributes:
        decoder_channels: Channels of the five blocks, coarsest first.
        norm: Kind of norms in the decoder: `batch`, or `group`, which does not depend on the batch
            and suits small batches.
    """

    decoder_channels: tuple[Channels, Channels, Channels, Channels, Channels] = (
        256,
        128,
        64,
        32,
        16,
    )
    norm: Literal["batch", "group"] = "batch"


@register_head("unet")
class UNet(SemanticHead):
    """Semantic segmentation with a U-Net decoder over C1..C5.

    The stride of a level may be twice the previous one or, in a dilated backbone, equal to it.
    Images with a single cell in C5 work with either norm.

    Args:
        specs: Channels and stride of the levels C1..C5.
        classes: Class names; a label inside the head is an index into them.
        options: `UNetOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = UNetOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C1", "C2", "C3", "C4", "C5")
    foreign_weights: ClassVar[ForeignWeights] = SmpUNet()
    options: UNetOptions

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        check_strides(self.decoder_specs, f"head {type(self).__name__}", allowed_ratios=(1, 2))
        channels = self.options.decoder_channels
        # The first entry of smp's list is the image, whose channels the decoder does not use.
        encoder_channels = [0, *(spec.channels for spec in self.decoder_specs.values())]
        self.decoder = _Decoder(encoder_channels, channels, n_blocks=len(channels))
        if self.options.norm == "group":
            batch_to_group_norm(self.decoder, choose_num_groups)
        fold_norms(self.decoder)
        initialize_decoder(self.decoder)
        self._add_classifier(channels[-1], kernel_size=3)

    def prepare_for_inference(self) -> None:
        """Precompute the summed filters of all blocks."""
        super().prepare_for_inference()
        channels = (self.specs["C5"].channels, *self.options.decoder_channels[:-1])
        self.decoder.sum_filters(channels)

    def pixel_features(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute `(B, decoder_channels[-1], H, W)`."""
        decoded: Tensor = self.decoder(
            [features[level] for level in reversed(self.decoder_specs)],
            self._get_padded_size(features),
        )
        return decoded


class _Decoder(UnetDecoder):  # type: ignore[misc]
    """Decoder of smp whose blocks avoid upsampling and concatenation where possible.

    Elsewhere, the upsampled and concatenated maps are recomputed in the backward instead of saved.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._summed_filters: dict[nn.Module, SummedFilters] = {}
        """First convolution of a block -> summed filters; filled by `sum_filters`."""

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Compute `(B, channels, *size)` from the backbone's levels, coarsest first."""
        x: Tensor = self.center(levels[0])
        for block, skip in zip(self.blocks, [*levels[1:], None], strict=True):
            at = size if skip is None else (skip.shape[2], skip.shape[3])
            x = block.conv2(self._apply_first_layers(block.conv1, at, x, skip))
        return x

    def sum_filters(self, channels: Sequence[int]) -> None:
        """Sum the filters of all blocks once; later changes of the weights have no effect.

        Args:
            channels: Channels of the map that each block upsamples.
        """
        with torch.no_grad():
            for block, count in zip(self.blocks, channels, strict=True):
                first = block.conv1[0]
                self._summed_filters[first] = make_summed_filters(*_get_filters(first), count)

    def _apply_first_layers(
        self, layers: nn.Sequential, size: tuple[int, int], x: Tensor, skip: Tensor | None
    ) -> Tensor:
        """Apply a block's first convolution, norm and activation to upsampled `x` and `skip`."""
        first, *later_layers = layers
        assert isinstance(first, nn.Conv2d)
        if not can_double(x, size, first.weight):
            inputs = (x,) if skip is None else (x, skip)
            return apply_with_recomputation(layers, partial(_upsample_and_concat, size), *inputs)
        filters = self._summed_filters.get(first) or make_summed_filters(
            *_get_filters(first), x.shape[1]
        )
        output = convolve_upsampled(x, skip, filters)
        for layer in later_layers:
            output = layer(output)
        return output


def _get_filters(convolution: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    if isinstance(convolution, FoldingConv2d):
        return convolution.get_filters()
    return convolution.weight, convolution.bias


def _upsample_and_concat(size: tuple[int, int], x: Tensor, skip: Tensor | None = None) -> Tensor:
    """Upsample `x` to (height, width) and append the channels of the skip connection."""
    upsampled = F.interpolate(x, size=size, mode="nearest")
    return upsampled if skip is None else torch.cat((upsampled, skip), dim=1)
