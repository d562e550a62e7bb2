"""Translation of the dataset's category indices into the labels of one head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.structures.evaluation import ABSENT, IGNORED, VOID
from resnet_tasks.structures.targets import Target

REGION_MARGIN = 10_000.0
"""Pixels by which the region of a whole image surpasses it: anchors at its border, which lie
outside for the most part, are inside the region."""


@dataclass(frozen=True)
class LabelTable:
    """Translation of a data set's category indices into the label indices of one head.

    Attributes:
        classes: The head's class names, in label order.
        mapping: Per category index of the data set: the head's label, `IGNORED` or `ABSENT`.
        unlabeled: The head's label for `UNLABELED` pixels: `VOID`, or that of its background
            class.
    """

    classes: tuple[str, ...]
    mapping: tuple[int, ...]
    unlabeled: int = VOID

    @classmethod
    def identity(cls, classes: Sequence[str]) -> LabelTable:
        """The table of a head whose classes are the data set's categories."""
        return cls(tuple(classes), tuple(range(len(classes))))

    def apply(self, target: Target, size: tuple[int, int] = (0, 0)) -> Target:
        """`target` in the head's labels: unknown objects ignored or absent, their pixels void.

        Where nobody looked for a class of the head, what is annotated teaches as ever, and the rest
        of the image is neither positive nor negative: an ignore region for boxes, void for
        unlabeled pixels.

        Args:
            target: In the data set's category indices.
            size: (height, width) of its image.
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
                changes["masks"] = target.masks[is_kept]
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
        """Whether any class of the head was looked for on an image."""
        missing = self._find_missing_labels(target)
        return missing is None or len(missing) < sum(label >= 0 for label in self.mapping)

    def _find_missing_labels(self, target: Target) -> Tensor | None:
        """The head's labels that nobody looked for; None where there are none."""
        if target.unannotated is None:
            return None
        mapped = self._to_tensor(target.unannotated)[target.unannotated]
        missing = mapped[mapped >= 0]
        return missing if len(missing) else None

    def _to_tensor(self, like: Tensor) -> Tensor:
        return torch.tensor(self.mapping, dtype=torch.int64, device=like.device)


def _add_ignore_region(objects: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """The same objects and an ignore region that holds the whole image."""
    boxes, labels, ignore = (objects[name] for name in ("boxes", "labels", "ignore"))
    height, width = size
    region = boxes.new_tensor(
        [[-REGION_MARGIN, -REGION_MARGIN, width + REGION_MARGIN, height + REGION_MARGIN]]
    )
    extended = {
        "boxes": torch.cat((boxes, region)),
        "labels": torch.cat((labels, labels.new_zeros(1))),
        "ignore": torch.cat((ignore, ignore.new_ones(1))),
    }
    if "masks" in objects:
        masks = objects["masks"]
        extended["masks"] = torch.cat((masks, masks.new_ones(1, *masks.shape[1:])))
    return extended
