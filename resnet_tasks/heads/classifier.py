"""Classification of whole images: one class of several, or any number of labels.

Shape glossary: `B` batch, `K` classes, `H5, W5` cells of level C5.

The classifier is linear and is applied to every cell of C5; what it gives are class activation
maps (Zhou et al. 2016, section 2), and pooling comes after it. For the average this is the head of
He et al. 2015 exactly, since a linear map and a mean can be exchanged; for the maximum it is the
pooling of class scores of Oquab et al. 2015. The order makes two things possible that pooled
features do not: cells in the batch's padding are left out, and the raw output shows where each
class was seen.

Pooling never reads a cell of the padding. Inside a convolutional backbone, though, cells at the
right and lower border of an image see padding where they would see the end of the image, as
everywhere in a padded batch; that part is the backbone's and cannot be taken out here.
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
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.predictions import Classification
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.tasks import CLASSIFICATION, Task

MULTI_LABEL = "multi_label_classification"
"""Key of the evaluator of heads with the option `multi_label`."""


class ClassifierOptions(HeadOptions):
    """Options of the classifier.

    Attributes:
        pooling: Of the class scores over the cells of the image: `avg`, or `max` for findings
            that fill a small part of it.
        dropout: Probability that a channel is dropped before the classifier, in training.
        label_smoothing: Share of the target that is spread over all classes (over yes and no with
            `multi_label`).
        class_weights: Of the loss: one number per class in order, or class name -> weight, where
            classes that are not named weigh 1. None weighs all 1.
        multi_label: Any number of labels per image, each a yes or no of its own (binary cross
            entropy); False: exactly one (cross entropy).
    """

    pooling: Literal["avg", "max"] = "avg"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: dict[str, float] | tuple[float, ...] | None = None
    multi_label: bool = False


@register_head("classifier")
class Classifier(Head):
    """A linear classifier on C5, pooled over the image.

    An image whose only labels are unknown to the head teaches a single-label head nothing.
    Dropout draws from the images' seeds in `loss`, in training mode, and never touches `forward`.

    Raises:
        HeadError: If C5 is missing, an option is wrong, or there is but one class to choose from.
    """

    Options: ClassVar[type[HeadOptions]] = ClassifierOptions
    task: ClassVar[Task] = CLASSIFICATION
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
        if len(self.classes) < 2 and not self.options.multi_label:
            raise HeadError(
                f"head {type(self).__name__} has the one class {self.classes[0]!r}, which every "
                "image would show; name another class, or set multi_label: true for yes or no"
            )
        weights = make_class_weights(self.options.class_weights, self.classes, type(self).__name__)
        # Not persistent: the weights are an option of the training, not a part of the model.
        self.register_buffer("class_weights", weights, persistent=False)
        spec = self.specs["C5"]
        self.stride = spec.stride
        self.classifier = nn.Conv2d(spec.channels, len(self.classes), 1)
        # As a linear layer of ImageNet models: small, so that training starts at even odds.
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    @property
    def evaluator_name(self) -> str:
        """Several labels are judged otherwise than one."""
        return MULTI_LABEL if self.options.multi_label else self.task.name

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`{"logits": (B, K, H5, W5)}` float32: class activation maps, padding included."""
        return {"logits": self.classifier(features["C5"]).float()}

    def pool_logits(self, logits: Tensor, sizes: Tensor | Sequence[tuple[int, int]]) -> Tensor:
        """`(B, K)` logits of the images, from the cells that hold a part of them.

        Args:
            logits: `(B, K, H5, W5)` float32.
            sizes: (height, width) of each image in input pixels; or `(B, 2)` int64.
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
        """One term over the images.

        Args:
            features: Level -> `(B, channels, H/stride, W/stride)`.
            view: The batch in this head's labels.

        Returns:
            `cross_entropy`: count is the sum of the class weights of the images' classes; with
            `multi_label` `binary_cross_entropy`: count is the sum of class weights over all pairs
            of image and class, those left out that nobody looked for.

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

    def decode(
        self, raw: Mapping[str, Tensor], geometries: Sequence[Geometry]
    ) -> list[Classification]:
        """One `Classification` per image: softmax, or with `multi_label` a sigmoid per class."""
        logits = self.pool_logits(
            raw["logits"].float(), [geometry.input_size for geometry in geometries]
        )
        if self.options.multi_label:
            return [Classification(probs, is_multi_label=True) for probs in logits.sigmoid()]
        return [Classification(probs) for probs in logits.softmax(dim=1)]

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
    """The label of each image; `VOID` where it has none that the head knows."""
    labels = []
    for image_id, target in zip(view.image_ids, view.targets, strict=True):
        assert target.image_labels is not None, "a view holds annotated images only"
        labels.append(get_single_label(target.image_labels.tolist(), image_id))
    return labels


def get_single_label(labels: Sequence[int], image_id: int | str) -> int:
    """The one label of an image; `VOID` where its labels are all unknown to the head.

    Args:
        labels: In the head's own numbers, `IGNORED` for what it does not know.
        image_id: For the message.

    Raises:
        DataError: If there is no label at all, or more than one that the head knows.
    """
    known_labels = [label for label in labels if label >= 0]
    if len(known_labels) > 1 or not labels:
        raise DataError(
            f"image {image_id!r} has {len(known_labels) or 'no'} image-level labels among the "
            "classes of "
            "this head, but a classifier needs exactly one; mend the file, or set multi_label: "
            "true where an image may have any number"
        )
    return known_labels[0] if known_labels else VOID
