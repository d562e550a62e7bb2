"""Base of the semantic heads: classifier and losses.

Shape glossary: `B` batch size, `K` classes, `H, W` padded image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_head
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.heads.base import Head, HeadOptions
from resnet_tasks.heads.class_weights import make_class_weights
from resnet_tasks.layers.dropout import sample_channel_mask
from resnet_tasks.layers.efficiency.per_image_losses import compute_terms_per_image
from resnet_tasks.layers.segmentation_losses import cross_entropy, dice, focal
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

LOSSES = ("cross_entropy", "dice", "focal")


class SemanticOptions(HeadOptions):
    """Options that every semantic head has.

    Attributes:
        loss: `cross_entropy`, `dice`, `focal`, or a sum such as `cross_entropy+dice`.
        class_weights: Class weights of cross entropy and focal loss: one number per class in order,
            or class name -> weight, with a weight of 1 for classes that are not named. None gives
            all classes the weight 1. A recipe can also name a weighting that is computed from the
            training data.
        label_smoothing: Label smoothing of the cross entropy, 0 to below 1.
        focal_gamma: Exponent of the focal loss (Lin et al. 2017: 2).
        dropout: Probability that a whole channel is dropped before the classifier, in training.
    """

    loss: str = "cross_entropy"
    class_weights: dict[str, float] | tuple[float, ...] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @field_validator("loss")
    @classmethod
    def _loss_is_a_sum_of_known_terms(cls, value: str) -> str:
        terms = [term.strip() for term in value.split("+")]
        unknown = [term for term in terms if term not in LOSSES]
        if unknown or len(set(terms)) < len(terms):
            raise ValueError(f"write one of {', '.join(LOSSES)}, or several of them joined by '+'")
        return "+".join(terms)

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the terms in `loss`."""
        return tuple(self.loss.split("+"))


class SemanticHead(Head):
    """Base class of the heads that assign one class to every pixel.

    A subclass builds a decoder in its constructor, calls `_add_classifier` and implements
    `pixel_features`.

    Losses are computed at the resolution of the padded image, in float32. Dropout is drawn from the
    seeds of the images in `loss`, in training mode only, and never affects `forward`.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = SemanticOptions
    task: ClassVar[str] = "semantic_segmentation"
    options: SemanticOptions
    class_weights: Tensor | None

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        weights = make_class_weights(self.options.class_weights, self.classes, type(self).__name__)
        # Not persistent: the weights are an option of the training, not a part of the model.
        self.register_buffer("class_weights", weights, persistent=False)

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
        return {"logits": _resize_logits(logits, self._get_padded_size(features))}

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the terms that the option `loss` names. Void pixels are ignored.

        Args:
            features: Level -> `(B, channels, H/stride, W/stride)`.
            view: Batch with the labels of this head.

        Returns:
            `cross_entropy` and `focal`, whose count is the sum of class weights over labeled
            pixels, and `dice`, whose count is the number of (image, class present in it) pairs.
        """
        decoded = self.pixel_features(features)
        if self.training and self.options.dropout > 0:
            decoded = decoded * sample_channel_mask(decoded, self.options.dropout, view.seeds)
        logits = self.classifier(decoded).float()
        return compute_terms_per_image(
            lambda image_logits, labels: self._compute_terms(
                _resize_logits(image_logits, view.padded_size), labels
            ),
            logits,
            view.semantic,
        )

    def _compute_terms(self, logits: Tensor, labels: Tensor) -> dict[str, LossTerm]:
        """Compute the loss terms of `(B, K, H, W)` logits and `(B, H, W)` labels."""
        options, weights = self.options, self.class_weights
        terms = {}
        for name in options.loss_terms:
            if name == "cross_entropy":
                smoothing = options.label_smoothing
                terms[name] = cross_entropy(
                    logits, labels, class_weights=weights, label_smoothing=smoothing
                )
            elif name == "dice":
                terms[name] = dice(logits, labels)
            else:
                terms[name] = focal(
                    logits, labels, gamma=options.focal_gamma, class_weights=weights
                )
        return terms

    def _get_padded_size(self, features: Mapping[str, Tensor]) -> tuple[int, int]:
        finest = self.in_levels[0]
        height, width = features[finest].shape[-2:]
        stride = self.specs[finest].stride
        return height * stride, width * stride


def _resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `(B, K, h, w)` logits to the (height, width) of the padded image."""
    if tuple(logits.shape[-2:]) == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
