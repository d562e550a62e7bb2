"""Semantic segmentation on a feature pyramid.

Kirillov, Girshick, He, Dollár: Panoptic Feature Pyramid Networks, 2019, section 3.1, with the
decoder of segmentation_models_pytorch (smp). There are three deviations from the paper. The
branches of P2..P5 upsample with aligned corners, as in smp. A pyramid inside the head has no 3x3
convolution after its sums, as in smp (a shared pyramid has one). Channels can be dropped before the
classifier.

Shape glossary: `B` batch size, `H, W` padded image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.fpn.decoder import (
    FPNDecoder,
    SegmentationBlock,
)
from torch import Tensor, nn

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.semantic.foreign_weights import SmpFPN
from resnet_tasks.heads.semantic.semantic_head import SemanticHead, SemanticOptions
from resnet_tasks.layers.feature_pyramid import get_shared_channels
from resnet_tasks.layers.strides import check_strides
from resnet_tasks.structures.feature_spec import FeatureSpec

PYRAMID_LEVELS = ("P2", "P3", "P4", "P5")


class FPNOptions(SemanticOptions):
    """Options of the semantic FPN head.

    Attributes:
        dropout: Probability that a whole channel is dropped before the classifier, in training.
        pyramid_channels: Channels of P2..P5; a shared pyramid determines them itself.
        segmentation_channels: Channels of each branch; a multiple of 32, the number of groups of
            the group norms.
        merge: Method that joins the branches: `add` (the paper) or `cat`.
    """

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    pyramid_channels: Annotated[int, Field(ge=1, le=2048)] = 256
    # At least 64: a group norm needs more than one value per group, and C5 of a small image has
    # only one cell.
    segmentation_channels: Annotated[int, Field(ge=64, le=2048, multiple_of=32)] = 128
    merge: Literal["add", "cat"] = "add"


@register_head("fpn")
class SemanticFPN(SemanticHead):
    """Semantic segmentation with a feature pyramid over C2..C5, or with a shared one with P2..P5.

    Logits are computed at the stride of C2 and upsampled bilinearly to the padded image. All norms
    are group norms, so the result for an image does not depend on the rest of the batch.

    Args:
        specs: Channels and stride of the levels C2..C5 or P2..P5; each stride is twice the previous
            one.
        classes: Class names; a label inside the head is an index into them.
        options: `FPNOptions`, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = FPNOptions
    in_levels: ClassVar[tuple[str, ...]] = ("C2", "C3", "C4", "C5")
    foreign_weights: ClassVar[ForeignWeights] = SmpFPN()
    options: FPNOptions

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        shared = tuple(self.decoder_specs) == PYRAMID_LEVELS
        check_strides(self.decoder_specs, f"head {type(self).__name__}")
        self.decoder = self._build_branches() if shared else self._build_decoder()
        initialize_decoder(self.decoder)
        self._add_classifier(self.decoder.out_channels, kernel_size=1)

    @classmethod
    def select_decoder_levels(
        cls, specs: Mapping[str, FeatureSpec], options: Any
    ) -> tuple[str, ...]:
        """Return the levels of a shared pyramid if there is one, else those of the backbone."""
        if all(level in specs for level in PYRAMID_LEVELS):
            return PYRAMID_LEVELS
        return super().select_decoder_levels(specs, options)

    def _build_decoder(self) -> FPNDecoder:
        return FPNDecoder(
            [spec.channels for spec in self.decoder_specs.values()],
            pyramid_channels=self.options.pyramid_channels,
            segmentation_channels=self.options.segmentation_channels,
            dropout=0.0,  # the base class applies dropout, drawn from the seeds of the images
            merge_policy=self.options.merge,
        )

    def _build_branches(self) -> _Branches:
        options = self.options
        requested_channels = (
            options.pyramid_channels if "pyramid_channels" in options.model_fields_set else None
        )
        channels = get_shared_channels(
            self.decoder_specs, requested_channels, f"head {type(self).__name__}"
        )
        return _Branches(channels, options.segmentation_channels, options.merge)

    def pixel_features(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute `(B, channels, H/4, W/4)`; `cat` has 4 times the `segmentation_channels`."""
        levels = [features[level] for level in self.decoder_specs]
        if isinstance(self.decoder, FPNDecoder):
            levels = _compute_pyramid(self.decoder, levels)
        branches = zip(self.decoder.seg_blocks, reversed(levels), strict=True)
        if self.options.merge == "cat":
            return torch.cat([block(level) for block, level in branches], dim=1)
        # Added one by one and in place: stacking the branches would hold and copy all of them.
        (block, coarsest), *finer_branches = branches
        total: Tensor = block(coarsest)
        for block, level in finer_branches:
            total = total.add_(block(level))
        return total


def _compute_pyramid(decoder: FPNDecoder, levels: Sequence[Tensor]) -> list[Tensor]:
    """Compute the decoder's pyramid: C2..C5 -> P2..P5."""
    c2, c3, c4, c5 = levels
    p5 = decoder.p5(c5)
    p4 = decoder.p4(p5, c4)
    p3 = decoder.p3(p4, c3)
    return [decoder.p2(p3, c2), p3, p4, p5]


class _Branches(nn.Module):
    """Part of smp's decoder after its pyramid, with the same parameter names."""

    def __init__(self, channels: int, segmentation_channels: int, merge: str) -> None:
        super().__init__()
        self.out_channels = segmentation_channels * (1 if merge == "add" else len(PYRAMID_LEVELS))
        self.seg_blocks = nn.ModuleList(
            SegmentationBlock(channels, segmentation_channels, n_upsamples=upsamplings)
            for upsamplings in (3, 2, 1, 0)
        )
