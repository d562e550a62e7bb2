"""Search for annotations that describe the same object."""

from __future__ import annotations

from array import array
from typing import Any

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.problems import Findings
from resnet_tasks.data.coco.records import Annotation

SAME_BOX_DECIMALS = 2
"""Decimals of a pixel to which the boxes of two annotations of one object agree."""


class RepeatedObjects:
    """Search that compares the annotations of a file, in one pass.

    Args:
        findings: Collector of the problems.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._object_keys: set[int] = set()

    def check(self, annotation: Annotation) -> None:
        """Add a finding if an earlier annotation has the same class and box.

        With the same mask it is `repeated_object`; if one of them has no mask it is `mask_twin`.
        """
        if annotation.bbox is None:
            return
        rounded_box = tuple(round(value, SAME_BOX_DECIMALS) for value in annotation.bbox)
        place = (annotation.image_id, annotation.category, rounded_box)
        has_mask = bool(annotation.segmentation)
        # A 64-bit hash takes a tenth of the memory of the values.
        key = hash((*place, _get_mask_key(annotation)))
        if key in self._object_keys:
            self._findings.add("repeated_object", annotation.image_id, annotation.id)
        elif hash((*place, not has_mask)) in self._object_keys:
            self._findings.add("mask_twin", annotation.image_id, annotation.id)
        self._object_keys.update((key, hash((*place, has_mask))))


def describe_repeated_objects(coco: CocoFile) -> list[str]:
    """Return a sentence per kind of repeated object of a file; empty if it has none."""
    findings = Findings(coco.path)
    repeated_objects = RepeatedObjects(findings)
    for record in coco.images:
        for annotation in coco.annotations[record.id]:
            repeated_objects.check(annotation)
    return [problem.message for problem in findings.to_problems()]


def _get_mask_key(annotation: Annotation) -> Any:
    """Return a hashable value that differs between different masks."""
    mask = annotation.segmentation
    if isinstance(mask, dict):
        return str(mask["counts"])
    return tuple(
        polygon.tobytes() if isinstance(polygon, array) else tuple(polygon)
        for polygon in mask or ()
    )
