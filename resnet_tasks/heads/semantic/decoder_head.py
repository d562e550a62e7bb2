"""Base of the semantic heads whose decoder is a module of segmentation_models_pytorch (smp).

A subclass names the levels that its decoder reads and builds it; everything else is shared. With
the same weights and the same features, the logits equal those of smp's model, upsampling included.

Shape glossary: `B` batch size, `H, W` padded image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from segmentation_models_pytorch.base.initialization import initialize_decoder
from torch import Tensor, nn

from resnet_tasks.heads.base import HeadOptions
from resnet_tasks.heads.semantic.semantic_head import SemanticHead, SemanticOptions
from resnet_tasks.layers.folded_norms import fold_norms
from resnet_tasks.layers.norms import batch_to_group_norm, choose_num_groups
from resnet_tasks.layers.segmentation.single_value_norms import accept_single_values
from resnet_tasks.layers.strides import check_strides
from resnet_tasks.layers.tracing import get_size
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.feature_spec import FeatureSpec

Channels = Annotated[int, Field(ge=1, le=2048)]


class DecoderOptions(SemanticOptions):
    """Options of every head with a decoder of smp.

    Attributes:
        depth: Number of the coarsest level that the decoder reads: 5 for C5. Later stages of the
            backbone are neither computed nor trained, unless another head reads them.
    """

    depth: Literal[3, 4, 5] = 5


class NormDecoderOptions(DecoderOptions):
    """Options of the heads whose norms can be replaced.

    Attributes:
        norm: Kind of norms in the decoder: `batch`, or `group`, which does not depend on the batch
            and suits small batches.
    """

    norm: Literal["batch", "group"] = "batch"


class BlockDecoderOptions(NormDecoderOptions):
    """Options of the heads whose decoder has one upsampling block per level.

    Attributes:
        decoder_channels: Channels of the blocks, coarsest first: as many as `depth`.
        interpolation: Upsampling in the blocks: `nearest` or `bilinear`.
    """

    decoder_channels: tuple[Channels, ...] = (256, 128, 64, 32, 16)
    interpolation: Literal["nearest", "bilinear"] = "nearest"

    @model_validator(mode="after")
    def _check_number_of_blocks(self) -> BlockDecoderOptions:
        if len(self.decoder_channels) != self.depth:
            raise ValueError(
                f"decoder_channels has {Count(len(self.decoder_channels)):value} for a depth of "
                f"{self.depth}; set one per block, coarsest first"
            )
        return self


class DecoderHead(SemanticHead):
    """Base class of the heads with a decoder of smp.

    Batches of one image work in training, maps of one cell included: a batch norm that gets a
    single value per channel uses its running statistics.

    Attributes:
        classifier_kernel: Size of the classifier's kernel.
        allowed_ratios: Allowed ratios of a level's stride to that of the next finer level; None if
            the decoder reads levels of any strides.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = DecoderOptions
    align_corners: ClassVar[bool] = True
    classifier_kernel: ClassVar[int] = 1
    allowed_ratios: ClassVar[tuple[int, ...] | None] = None
    options: DecoderOptions

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        if self.allowed_ratios is not None:
            reader = f"head {type(self).__name__}"
            check_strides(self.decoder_specs, reader, allowed_ratios=self.allowed_ratios)
        # smp's decoders count the image as level 0. They do not use its channels.
        levels = (f"C{number}" for number in range(1, self.options.depth + 1))
        channels = [0, *(self._get_channels(level) for level in levels)]
        self.decoder, out_channels = self._build_decoder(channels)
        if isinstance(self.options, NormDecoderOptions) and self.options.norm == "group":
            batch_to_group_norm(self.decoder, choose_num_groups)
        fold_norms(self.decoder)
        accept_single_values(self.decoder)
        initialize_decoder(self.decoder)
        self._add_classifier(out_channels, self.classifier_kernel)

    @classmethod
    def select_decoder_levels(
        cls,
        specs: Mapping[str, FeatureSpec],  # noqa: ARG003
        options: Any,
    ) -> tuple[str, ...]:
        """Return the levels of the class up to the option `depth`, whose level is always read."""
        coarsest = f"C{options.depth}"
        return (*(level for level in cls.in_levels if level < coarsest), coarsest)

    @abstractmethod
    def _build_decoder(self, channels: list[int]) -> tuple[nn.Module, int]:
        """Build the decoder.

        Args:
            channels: Channels of level 0 (the image) to `depth`; 0 for levels that are not read.

        Returns:
            Decoder, a module from a list of levels to a map, and the channels of its result.
        """

    def pixel_features(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute `(B, channels, H/s, W/s)`; the stride s is that of smp's decoder."""
        levels = [features.get(f"C{number}") for number in range(1, self.options.depth + 1)]
        decoded: Tensor = self.decoder([self._describe_image(features), *levels])
        return decoded

    def _get_channels(self, level: str) -> int:
        return self.decoder_specs[level].channels if level in self.decoder_specs else 0

    def _describe_image(self, features: Mapping[str, Tensor]) -> _ImageShape:
        finest = next(iter(self.decoder_specs))
        level, stride = features[finest], self.decoder_specs[finest].stride
        height, width = (get_size(level, axis) * stride for axis in (2, 3))
        return _ImageShape((level.shape[0], 0, height, width))


@dataclass(frozen=True)
class _ImageShape:
    """Stand-in for the image, of which smp's decoders read at most the shape."""

    shape: tuple[int | Tensor, ...]
