"""Counts of one exported split: its objects, and those that the format changes or cannot hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from data_tools.writing.split_summary import SkippedObject, SplitSummary
from resnet_tasks.data.coco.records import Annotation, ImageRecord


@dataclass
class SplitExport:
    """Counts of one exported split.

    Attributes:
        split: Name of the split.
        classes: Class names in order.
        images: Number of images.
        objects: Number of objects by class name.
        changed: Description of a change -> number of objects that it affects.
        skipped: Objects that are not in the output, with reasons.
    """

    split: str
    classes: tuple[str, ...]
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    skipped: list[SkippedObject] = field(default_factory=list)

    def count_object(self, annotation: Annotation) -> None:
        """Count an object that was written."""
        self.objects[self.classes[annotation.category]] += 1

    def count_change(self, description: str) -> None:
        """Count an object that was changed."""
        self.changed[description] += 1

    def skip_object(self, record: ImageRecord, annotation: Annotation, reason: str) -> None:
        """Record an object that the format cannot hold."""
        description = f"{self.classes[annotation.category]} (annotation {annotation.id})"
        self.skipped.append(SkippedObject(record.file_name, description, reason))

    def summarize(self) -> SplitSummary:
        """Return the summary of the split for the data card."""
        objects = {name: self.objects[name] for name in self.classes}
        return SplitSummary(self.split, self.images, objects, {}, tuple(self.skipped), self.changed)
