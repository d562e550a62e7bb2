"""DeepLab v3 and v3+ on the levels of a ResNet.

Chen, Papandreou, Schroff, Adam: Rethinking Atrous Convolution for Semantic Image Segmentation,
2017; Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution for
Semantic Image Segmentation, ECCV 2018; with the decoders of segmentation_models_pytorch (smp).

Shape glossary: `B` batch size, `H, W` padded image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from segmentation_models_pytorch.decoders.deeplabv3.decoder import (
    ASPP,
    DeepLabV3Decoder,
    DeepLabV3PlusDecoder,
)
from torch import Tensor, nn

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.decoder_head import Channels, DecoderHead, NormDecoderOptions
from resnet_tasks.heads.semantic.smp_models import DEEPLABV3, DEEPLABV3PLUS
from resnet_tasks.layers.dropout import SeededDropout
from resnet_tasks.structures.feature_spec import FeatureSpec

Rate = Annotated[int, Field(ge=1, le=512)]


class DeepLabOptions(NormDecoderOptions):
    """Options that both DeepLab heads have.

    Attributes:
        decoder_channels: Channels of every branch of the atrous pyramid (ASPP) and of its result.
        atrous_rates: Dilations of the three 3x3 convolutions of the atrous pyramid, in cells of the
            coarsest level. The papers use 12, 24, 36 at `backbone.output_stride` 8 and 6, 12, 18 at
            16; at 32, the same field of view is 3, 6, 9.
        aspp_separable: Whether these convolutions are depthwise separable, with fewer parameters.
        aspp_dropout: Probability that a value is dropped after the atrous pyramid, in training.
    """

    decoder_channels: Channels = 256
    atrous_rates: tuple[Rate, Rate, Rate] = (12, 24, 36)
    aspp_separable: bool = False
    aspp_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class DeepLabV3PlusOptions(DeepLabOptions):
    """Options of the DeepLab v3+ head.

    Attributes:
        aspp_separable: Whether the convolutions of the atrous pyramid are depthwise separable, with
            fewer parameters.
    """

    aspp_separable: bool = True


class DeepLabHead(DecoderHead):
    """Base class of the DeepLab heads, whose atrous pyramid has a dropout."""

    Options: ClassVar[type[HeadOptions]] = DeepLabOptions
    options: DeepLabOptions

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        self._get_aspp().project[-1] = SeededDropout(self.options.aspp_dropout)

    @abstractmethod
    def _get_aspp(self) -> ASPP:
        """Return the atrous pyramid of the decoder."""

    def _decode_in_training(self, features: Mapping[str, Tensor], seeds: Sequence[int]) -> Tensor:
        with self._get_aspp().project[-1].use_seeds(seeds):
            return self.pixel_features(features)


@register_head("deeplabv3")
class DeepLabV3(DeepLabHead):
    """Semantic segmentation with the atrous pyramid of DeepLab v3 on C5.

    Logits are computed at the stride of C5. The paper uses `backbone.output_stride` 16 or 8; at 32,
    the head can share the backbone with a detector.

    Args:
        specs: Channels and stride of the level C5.
        classes: Class names; a label inside the head is an index into them.
        options: `DeepLabOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, or an option is invalid.
    """

    in_levels: ClassVar[tuple[str, ...]] = ("C5",)
    foreign_weights: ClassVar[ForeignWeights] = DEEPLABV3

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        options = self.options
        decoder = DeepLabV3Decoder(
            channels[-1],
            options.decoder_channels,
            options.atrous_rates,
            aspp_separable=options.aspp_separable,
            aspp_dropout=0.0,  # replaced by a dropout that is drawn from the seeds of the images
        )
        return decoder, options.decoder_channels

    def _get_aspp(self) -> ASPP:
        return self.decoder.aspp


@register_head("deeplabv3plus")
class DeepLabV3Plus(DeepLabHead):
    """Semantic segmentation with the atrous pyramid of DeepLab v3+ on C5, refined with C2.

    Logits are computed at the stride of C2. The paper uses `backbone.output_stride` 16 or 8; at 32,
    the head can share the backbone with a detector.

    Args:
        specs: Channels and stride of the levels C2 and C5.
        classes: Class names; a label inside the head is an index into them.
        options: `DeepLabV3PlusOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, the stride of C5 is no multiple of that of C2, or an
            option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = DeepLabV3PlusOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C2", "C5")
    foreign_weights: ClassVar[ForeignWeights] = DEEPLABV3PLUS

    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        options = self.options
        fine, coarse = self.decoder_specs.values()
        if coarse.stride % fine.stride:
            raise HeadError(
                f"head {type(self).__name__}: the stride of C{options.depth} is {coarse.stride}, "
                f"but must be a multiple of that of C2, {fine.stride}"
            )
        decoder = DeepLabV3PlusDecoder(
            channels,
            options.depth,
            options.decoder_channels,
            options.atrous_rates,
            output_stride=16,
            aspp_separable=options.aspp_separable,
            aspp_dropout=0.0,  # replaced by a dropout that is drawn from the seeds of the images
        )
        # smp knows the strides 8 and 16 only.
        decoder.up.scale_factor = float(coarse.stride // fine.stride)
        return decoder, options.decoder_channels

    def _get_aspp(self) -> ASPP:
        return self.decoder.get_submodule("aspp.0")
