"""Classification of whole images: one of several classes, or any number of labels.

Shape glossary: `B` batch size, `K` classes, `H5, W5` cells of level C5.

A linear classifier is applied to every cell of C5. Its outputs are class activation maps (Zhou
et al. 2016, section 2), which are pooled afterwards. With average pooling this equals the head of
He et al. 2015, because a linear map and a mean commute. With max pooling it is the pooling of class
scores of Oquab et al. 2015. This order has two advantages over pooled features: cells in the
padding of the batch are excluded, and the raw output shows the location of each class.

Pooling never reads a cell of the padding. Inside a convolutional backbone, however, cells at the
right and lower border of an image see padding instead of the end of the image, as in every padded
batch. The head cannot correct this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.errors import DataError, HeadError
from resnet_tasks.heads.base import Head, HeadOptions, register_head
from resnet_tasks.heads.class_weights import make_class_weights
from resnet_tasks.layers.dropout import sample_channel_mask
from resnet_tasks.layers.segmentation_losses import cross_entropy
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.tasks import Task, get_task

MULTI_LABEL_TASK = "multi_label_classification"
"""Task of heads with the option `multi_label`."""


class ClassifierOptions(HeadOptions):
    """Options of the classifier.

    Attributes:
        pooling: Pooling of the class scores over the cells of the image: `avg`, or `max` for
            findings that cover a small part of the image.
        dropout: Probability that a channel is dropped before the classifier, in training.
        label_smoothing: Share of the target that is spread over all classes (over yes and no with
            `multi_label`).
        class_weights: Class weights of the loss: one number per class in order, or class name ->
            weight, with a weight of 1 for classes that are not named. None gives all classes the
            weight 1. A recipe can also name a weighting that is computed from the training data.
        multi_label: Whether an image may have any number of labels, each with a binary cross
            entropy. Otherwise an image has exactly one label, and the loss is the cross entropy.
    """

    pooling: Literal["avg", "max"] = "avg"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: dict[str, float] | tuple[float, ...] | None = None
    multi_label: bool = False


@register_head("classifier")
class Classifier(Head):
    """Linear classifier on C5, pooled over the image.

    In a single-label head, an image whose only labels are unknown to the head adds nothing to the
    loss. Dropout is drawn from the seeds of the images in `loss`, in training mode only, and never
    affects `forward`.

    Raises:
        HeadError: If C5 is missing, an option is invalid, or there is only one class to choose.
    """

    Options: ClassVar[type[HeadOptions]] = ClassifierOptions
    task: ClassVar[str] = "classification"
    in_levels: ClassVar[tuple[str, ...]] = ("C5",)
    options: ClassifierOptions
    class_weights: Tensor | None

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        self.task = type(self).find_task(self.options).name  # type: ignore[misc]
        if len(self.classes) < 2 and not self.options.multi_label:
            raise HeadError(
                f"head {type(self).__name__} has only the class {self.classes[0]!r}, so there is "
                "nothing to distinguish; add another class, or set multi_label: true for a yes/no "
                "label"
            )
        weights = make_class_weights(self.options.class_weights, self.classes, type(self).__name__)
        # Not persistent: the weights are an option of the training, not a part of the model.
        self.register_buffer("class_weights", weights, persistent=False)
        spec = self.specs["C5"]
        self.stride = spec.stride
        self.classifier = nn.Conv2d(spec.channels, len(self.classes), 1)
        # Initialized like the linear layer of ImageNet models: the weights are small, so that
        # training starts with nearly equal class probabilities.
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def check_labels(self, labels: Sequence[int], image_id: int | str) -> None:
        """Require exactly one known label, unless the head is multi-label.

        Raises:
            DataError: If there is no label, or more than one that the head knows.
        """
        if not self.options.multi_label:
            get_single_label(labels, image_id)

    @classmethod
    def find_task(cls, options: Mapping[str, Any] | HeadOptions | None = None) -> Task:
        """Return the task: classification with one label per image, or with any number."""
        is_multi_label = cls.parse_options(options).multi_label
        return get_task(MULTI_LABEL_TASK if is_multi_label else cls.task)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `{"logits": (B, K, H5, W5)}` float32: class activation maps, padding included."""
        return {"logits": self.classifier(features["C5"]).float()}

    def pool_logits(self, logits: Tensor, sizes: Tensor | Sequence[tuple[int, int]]) -> Tensor:
        """Pool the logits of each image over the cells that contain a part of it.

        Args:
            logits: `(B, K, H5, W5)` float32.
            sizes: (height, width) of each image in input pixels, or a `(B, 2)` int64 tensor.

        Returns:
            `(B, K)` float32 logits.
        """
        size_tensor = (
            sizes if isinstance(sizes, Tensor) else torch.tensor(sizes, device=logits.device)
        )
        limits = size_tensor.reshape(-1, 2)
        cells = torch.div(limits + self.stride - 1, self.stride, rounding_mode="floor")
        rows = torch.arange(logits.shape[2], device=logits.device)[None, :, None]
        columns = torch.arange(logits.shape[3], device=logits.device)[None, None]
        inside = (rows < cells[:, 0, None, None]) & (columns < cells[:, 1, None, None])
        if self.options.pooling == "max":
            return logits.masked_fill(~inside[:, None], -torch.inf).amax(dim=(2, 3))
        total = logits.masked_fill(~inside[:, None], 0.0).sum(dim=(2, 3))
        return total / inside.sum(dim=(1, 2))[:, None]

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the loss of the images as one term.

        Args:
            features: Level -> `(B, channels, H/stride, W/stride)`.
            view: Batch with the labels of this head.

        Returns:
            `cross_entropy`, whose count is the sum of the class weights of the images' classes.
            With `multi_label` it is `binary_cross_entropy`, whose count is the sum of the class
            weights over all pairs of image and class, excluding classes that are not annotated in
            the image.

        Raises:
            DataError: If an image of a single-label head has no label, or more than one.
        """
        level = features["C5"]
        if self.training and self.options.dropout > 0:
            level = level * sample_channel_mask(level, self.options.dropout, view.seeds)
        logits = self.pool_logits(self.classifier(level).float(), view.image_sizes)
        if self.options.multi_label:
            return {"binary_cross_entropy": self._binary_cross_entropy(logits, view)}
        labels = torch.tensor(_collect_single_labels(view), device=logits.device)
        return {
            "cross_entropy": cross_entropy(
                logits[:, :, None, None],
                labels[:, None, None],
                class_weights=self.class_weights,
                label_smoothing=self.options.label_smoothing,
            )
        }

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Return `{"logits": (B, K)}` float32, pooled over each image."""
        return {"logits": self.pool_logits(raw["logits"].float(), sizes)}

    def _binary_cross_entropy(self, logits: Tensor, view: BatchView) -> LossTerm:
        target_probs = torch.zeros_like(logits)
        for row, target in zip(target_probs, view.targets, strict=True):
            assert target.image_labels is not None, "a view holds annotated images only"
            row[target.image_labels[target.image_labels >= 0]] = 1.0
        smoothing = self.options.label_smoothing
        target_probs = target_probs * (1 - smoothing) + smoothing / 2
        weights = torch.ones_like(logits)
        if self.class_weights is not None:
            weights = weights * self.class_weights
        for row, target in zip(weights, view.targets, strict=True):
            if target.unannotated is not None:
                row[target.unannotated] = 0.0
        total = F.binary_cross_entropy_with_logits(
            logits, target_probs, weight=weights, reduction="sum"
        )
        return LossTerm(total, weights.sum())


def _collect_single_labels(view: BatchView) -> list[int]:
    """Collect the label of each image; `VOID` if the head knows none of the image's labels."""
    labels = []
    for image_id, target in zip(view.image_ids, view.targets, strict=True):
        assert target.image_labels is not None, "a view holds annotated images only"
        labels.append(get_single_label(target.image_labels.tolist(), image_id))
    return labels


def get_single_label(labels: Sequence[int], image_id: int | str) -> int:
    """Return the only label of an image; `VOID` if all of its labels are unknown to the head.

    Args:
        labels: Class indices of the head, `IGNORED` for labels that it does not know.
        image_id: Id of the image, for the error message.

    Raises:
        DataError: If there is no label at all, or more than one that the head knows.
    """
    known_labels = [label for label in labels if label >= 0]
    if len(known_labels) > 1 or not labels:
        raise DataError(
            f"image {image_id!r} has {len(known_labels) or 'no'} image-level labels among the "
            "classes of this head, but a single-label classifier needs exactly one; fix the "
            "annotation file, or set multi_label: true if images may have any number of labels"
        )
    return known_labels[0] if known_labels else VOID
