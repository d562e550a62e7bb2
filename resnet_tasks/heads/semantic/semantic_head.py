"""Base of the semantic heads: classifier, losses and auxiliary branch.

Shape glossary: `B` batch size, `K` classes, `H, W` padded image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_head
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.heads.base import Head, HeadOptions
from resnet_tasks.heads.class_weights import make_class_weights
from resnet_tasks.heads.semantic.auxiliary_branch import AuxiliaryBranch
from resnet_tasks.heads.semantic.semantic_losses import LossOptions, compute_loss_terms
from resnet_tasks.layers.dropout import sample_channel_mask
from resnet_tasks.layers.efficiency.per_image_losses import compute_terms_per_image
from resnet_tasks.layers.segmentation_losses import cross_entropy
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

LossTerms = Callable[[Tensor, Tensor], dict[str, LossTerm]]
"""Function of `(B, K, H, W)` logits and `(B, H, W)` labels -> named loss terms."""
AUXILIARY_TERM = "auxiliary"
"""Name of the loss term of the auxiliary branch."""


class SemanticOptions(LossOptions):
    """Options that every semantic head has.

    Attributes:
        dropout: Probability that a whole channel is dropped before the classifier, in training.
        auxiliary_level: Level of the backbone on which a second, small classifier is trained (Zhao
            et al. 2017: C4); it takes no part in predictions and exports. None: no such
            classifier.
        auxiliary_weight: Factor of the cross entropy of that classifier.
    """

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    auxiliary_level: Literal["C1", "C2", "C3", "C4", "C5"] | None = None
    auxiliary_weight: Annotated[float, Field(gt=0, le=10)] = 0.4


class SemanticHead(Head):
    """Base class of the heads that assign one class to every pixel.

    A subclass builds a decoder on `decoder_specs` in its constructor, calls `_add_classifier` and
    implements `pixel_features`.

    Losses are computed at the resolution of the padded image, in float32. Dropout is drawn from the
    seeds of the images in `loss`, in training mode only, and never affects `forward`. Neither does
    the auxiliary branch.

    Attributes:
        decoder_specs: Channels and stride of the levels that the decoder reads, finest first.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = SemanticOptions
    task: ClassVar[str] = "semantic_segmentation"
    align_corners: ClassVar[bool] = False
    """Whether the logits are upsampled with aligned corners instead of half-pixel centers."""
    options: SemanticOptions
    class_weights: Tensor | None

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        levels = type(self).select_decoder_levels(specs, self.options)
        self.decoder_specs = {level: self.specs[level] for level in levels}
        weights = make_class_weights(self.options.class_weights, self.classes, type(self).__name__)
        # Not persistent: the weights are an option of the training, not a part of the model.
        self.register_buffer("class_weights", weights, persistent=False)
        if self.options.auxiliary_level is not None:
            channels = self.specs[self.options.auxiliary_level].channels
            self.auxiliary = AuxiliaryBranch(channels, len(self.classes))

    @classmethod
    def levels(cls, specs: Mapping[str, FeatureSpec], options: Any) -> tuple[str, ...]:
        """Return the levels of the decoder, followed by that of the auxiliary branch."""
        levels = cls.select_decoder_levels(specs, options)
        auxiliary = options.auxiliary_level
        return levels if auxiliary is None or auxiliary in levels else (*levels, auxiliary)

    @classmethod
    def select_decoder_levels(
        cls,
        specs: Mapping[str, FeatureSpec],  # noqa: ARG003
        options: Any,  # noqa: ARG003
    ) -> tuple[str, ...]:
        """Return the levels that the decoder reads; default: `in_levels` of the class.

        Args:
            specs: Channels and stride of every offered level.
            options: Validated options of the head.
        """
        return cls.in_levels

    def _add_classifier(self, channels: int, kernel_size: int) -> None:
        self.classifier = SegmentationHead(channels, len(self.classes), kernel_size=kernel_size)
        initialize_head(self.classifier)

    @abstractmethod
    def pixel_features(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute the input of the classifier, `(B, channels, H/s, W/s)`.

        The result is channels-last if the features are.
        """

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `{"logits": (B, K, H, W)}` float32 at the full resolution of the padded image."""
        logits = self.classifier(self.pixel_features(features)).float()
        return {"logits": self._resize_logits(logits, self._get_padded_size(features))}

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the terms that the option `loss` names. Void pixels are ignored.

        Args:
            features: Level -> `(B, channels, H/stride, W/stride)`.
            view: Batch with the labels of this head.

        Returns:
            Terms of `segmentation_losses` by name, and `auxiliary`, the weighted cross entropy of
            the auxiliary branch, if there is one.
        """
        labels = view.semantic
        decoded = self._decode_in_training(features, view.seeds)
        if self.training and self.options.dropout > 0:
            decoded = decoded * sample_channel_mask(decoded, self.options.dropout, view.seeds)
        compute = partial(compute_loss_terms, self.options, self.class_weights)
        terms = self._compute_terms(compute, self.classifier(decoded), labels)
        if self.options.auxiliary_level is not None:
            logits = self.auxiliary(features[self.options.auxiliary_level])
            terms |= self._compute_terms(self._compute_auxiliary_term, logits, labels)
        return terms

    def prepare_for_inference(self) -> None:
        """Remove the auxiliary branch, which only the loss uses."""
        if self.options.auxiliary_level is not None:
            del self.auxiliary
            self.in_levels = tuple(self.decoder_specs)  # type: ignore[misc]  # of this head

    def _decode_in_training(self, features: Mapping[str, Tensor], seeds: Sequence[int]) -> Tensor:
        """Compute `pixel_features` for the loss; a decoder with random layers uses the seeds."""
        del seeds
        return self.pixel_features(features)

    def _compute_terms(
        self, compute: LossTerms, logits: Tensor, labels: Tensor
    ) -> dict[str, LossTerm]:
        """Compute loss terms of logits of any resolution, one image at a time."""
        height, width = labels.shape[-2:]
        return compute_terms_per_image(
            lambda image_logits, image_labels: compute(
                self._resize_logits(image_logits, (height, width)), image_labels
            ),
            logits.float(),
            labels,
        )

    def _compute_auxiliary_term(self, logits: Tensor, labels: Tensor) -> dict[str, LossTerm]:
        term = cross_entropy(logits, labels, class_weights=self.class_weights)
        return {AUXILIARY_TERM: LossTerm(self.options.auxiliary_weight * term.sum, term.count)}

    def _resize_logits(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize `(B, K, h, w)` logits to the (height, width) of the padded image."""
        if tuple(logits.shape[-2:]) == size:
            return logits
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=self.align_corners)

    def _get_padded_size(self, features: Mapping[str, Tensor]) -> tuple[int, int]:
        finest = self.in_levels[0]
        height, width = features[finest].shape[-2:]
        stride = self.specs[finest].stride
        return height * stride, width * stride
