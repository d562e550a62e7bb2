"""Counts of one exported split: its objects, and what the format changed or could not hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from data_tools.writing.split_summary import SkippedObject, SplitSummary
from resnet_tasks.data.coco.records import Annotation, ImageRecord


@dataclass
class SplitExport:
    """What one exported split holds.

    Attributes:
        split: Its name.
        classes: Names in order.
        images: Number of images.
        objects: Number of objects by class name.
        changed: Objects that are not quite what they were -> their number.
        skipped: What is not in the output, and why.
    """

    split: str
    classes: tuple[str, ...]
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    skipped: list[SkippedObject] = field(default_factory=list)

    def count_object(self, annotation: Annotation) -> None:
        """Counts an object that was written."""
        self.objects[self.classes[annotation.category]] += 1

    def count_change(self, description: str) -> None:
        """Counts an object that was changed."""
        self.changed[description] += 1

    def skip_object(self, record: ImageRecord, annotation: Annotation, reason: str) -> None:
        """Counts an object that the format cannot hold."""
        description = f"{self.classes[annotation.category]} (annotation {annotation.id})"
        self.skipped.append(SkippedObject(record.file_name, description, reason))

    def summarize(self) -> SplitSummary:
        """As the data card takes it."""
        objects = {name: self.objects[name] for name in self.classes}
        return SplitSummary(self.split, self.images, objects, {}, tuple(self.skipped), self.changed)
