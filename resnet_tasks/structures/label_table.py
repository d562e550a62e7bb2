"""Translation of the dataset's category indices into the labels of one head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.structures.evaluation import ABSENT, IGNORED, VOID
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.targets import Target

REGION_MARGIN = 10_000.0
"""Pixels by which the ignore region of a whole image extends beyond the image, so that it also
contains anchors at the border, most of whose area lies outside."""


@dataclass(frozen=True)
class LabelTable:
    """Translation of a dataset's category indices into the label indices of one head.

    Attributes:
        classes: Class names of the head, in label order.
        mapping: Label of the head for every category index of the dataset, or `IGNORED` or
            `ABSENT`.
        unlabeled: Label of the head for `UNLABELED` pixels: `VOID` or the background class.
    """

    classes: tuple[str, ...]
    mapping: tuple[int, ...]
    unlabeled: int = VOID

    @classmethod
    def identity(cls, classes: Sequence[str]) -> LabelTable:
        """Create the table of a head whose classes are the dataset's categories."""
        return cls(tuple(classes), tuple(range(len(classes))))

    def apply(self, target: Target, size: tuple[int, int] = (0, 0)) -> Target:
        """Translate a target into the head's labels.

        Objects of unknown categories become ignore regions or are removed (`ABSENT`); their pixels
        become void.

        If some class of the head was not annotated on the image, the existing annotations
        contribute to the loss as before. The rest of the image is neither positive nor negative:
        boxes get an ignore region over the whole image, and unlabeled pixels become void.

        Args:
            target: Target whose labels are category indices of the dataset.
            size: (height, width) of the target's image, input pixels.

        Returns:
            Target whose labels are indices into the head's classes.
        """
        changes: dict[str, Any] = {}
        missing = self._find_missing_labels(target)
        if target.unannotated is not None:
            changes["unannotated"] = missing
        if target.boxes is not None and target.labels is not None:
            mapped = self._to_tensor(target.labels)[target.labels]
            is_kept = mapped != ABSENT
            ignore = mapped == IGNORED
            if target.ignore is not None:
                ignore = ignore | target.ignore
            changes |= {
                "boxes": target.boxes[is_kept],
                "labels": mapped.clamp(min=0)[is_kept],
                "ignore": ignore[is_kept],
            }
            if target.masks is not None:
                changes["masks"] = target.masks.select(is_kept)
            if missing is not None:
                changes |= _add_ignore_region(changes, size)
        if target.semantic is not None:
            # Index -1 (VOID) and -2 (UNLABELED) reach the two entries appended at the end.
            table = torch.cat(
                (
                    self._to_tensor(target.semantic).clamp(min=VOID),
                    target.semantic.new_tensor([self.unlabeled if missing is None else VOID, VOID]),
                )
            )
            changes["semantic"] = table[target.semantic]
        if target.image_labels is not None:
            mapped = self._to_tensor(target.image_labels)[target.image_labels]
            changes["image_labels"] = mapped[mapped != ABSENT]
        return replace(target, **changes)

    def has_annotated_classes(self, target: Target) -> bool:
        """Return whether at least one class of the head was annotated on the image."""
        missing = self._find_missing_labels(target)
        return missing is None or len(missing) < sum(label >= 0 for label in self.mapping)

    def _find_missing_labels(self, target: Target) -> Tensor | None:
        """Return the head's labels that were not annotated on the image; None if there are none."""
        if target.unannotated is None:
            return None
        mapped = self._to_tensor(target.unannotated)[target.unannotated]
        missing = mapped[mapped >= 0]
        return missing if len(missing) else None

    def _to_tensor(self, like: Tensor) -> Tensor:
        return torch.tensor(self.mapping, dtype=torch.int64, device=like.device)


def _add_ignore_region(objects: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Append an ignore region that covers the whole image to the objects."""
    boxes, labels, ignore = (objects[name] for name in ("boxes", "labels", "ignore"))
    height, width = size
    region = boxes.new_tensor(
        [[-REGION_MARGIN, -REGION_MARGIN, width + REGION_MARGIN, height + REGION_MARGIN]]
    )
    extended: dict[str, Any] = {
        "boxes": torch.cat((boxes, region)),
        "labels": torch.cat((labels, labels.new_zeros(1))),
        "ignore": torch.cat((ignore, ignore.new_ones(1))),
    }
    if "masks" in objects:
        without_mask = InstanceMasks.from_bitmaps([None], [(0, 0)]).to(boxes.device)
        extended["masks"] = InstanceMasks.cat((objects["masks"], without_mask))
    return extended
