"""Checks for suspicious annotations: boxes that do not match their masks, and unusual units."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from resnet_tasks.data.coco.box_formats import BoxFormatCounter
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.field_values import clip_to_image
from resnet_tasks.data.coco.masks import compute_bounding_box
from resnet_tasks.data.coco.problems import Findings, Id
from resnet_tasks.data.coco.records import Annotation, ImageRecord, Xywh
from resnet_tasks.data.doctor.repeated_objects import RepeatedObjects
from resnet_tasks.errors import format_list
from resnet_tasks.number_formats import Count

APART_PIXELS = 2.0
APART_SHARE = 0.1
"""Tolerances in pixels and as a fraction of the width (height) for the distance between an edge of
a box and the edge of its mask. The greater of the two applies."""


class ObjectChecks:
    """Checks of the annotations of a file that `AnnotationReader` accepts, in one pass.

    Args:
        categories: Categories of the file.
        images: Image records of the file.
        findings: Collector of the problems.

    Attributes:
        objects: Category id -> number of annotations.
    """

    def __init__(
        self, categories: CategoryMap, images: Sequence[ImageRecord], findings: Findings
    ) -> None:
        self._categories = categories
        self._sizes = {record.id: (record.height, record.width) for record in images}
        self._findings = findings
        self._repeated_objects = RepeatedObjects(findings)
        self._counts = [0] * len(categories)
        self._single_counts = [0] * len(categories)
        self._formats = BoxFormatCounter()

    @property
    def objects(self) -> dict[int, int]:
        """Category id -> number of annotations."""
        return dict(zip(self._categories.ids, self._counts, strict=True))

    def check(self, annotation: Annotation) -> None:
        """Check one annotation."""
        self._counts[annotation.category] += 1
        self._single_counts[annotation.category] += not annotation.is_crowd
        box = annotation.bbox
        if box is None:
            return
        height, width = self._sizes[annotation.image_id]
        self._formats.add(box, (height, width))
        ids = (annotation.image_id, annotation.id)
        if annotation.area > (box[2] + 1) * (box[3] + 1):
            detail = f"area {annotation.area:g}, box {box[2]:g} x {box[3]:g}"
            self._findings.add("area_beyond_box", *ids, detail)
        self._repeated_objects.check(annotation)
        if annotation.segmentation:
            self._compare_box_and_mask(box, annotation.segmentation, ids, (height, width))

    def finish(self, annotated: frozenset[str]) -> None:
        """Add the findings that depend on the whole file.

        Args:
            annotated: Kinds of annotations in the file.
        """
        formats = self._formats.count()
        if formats.are_corners:
            self._findings.add("corner_boxes", detail=formats.describe_corners())
        if formats.are_relative:
            self._findings.add("relative_boxes", detail=formats.describe_relative())
        for category, count, single_count in zip(
            self._categories.categories, self._counts, self._single_counts, strict=True
        ):
            # Regions of stuff are crowds in COCO.
            if count and not single_count and category.is_thing:
                detail = f"{category.id} {category.name!r} with {Count(count):region}"
                self._findings.add("all_crowd", detail=detail)
        self._find_similar_categories()
        if not annotated & {"boxes", "masks", "image"}:
            return
        for category, count in zip(self._categories.categories, self._counts, strict=True):
            # If there are semantic maps, stuff classes are in them.
            if count == 0 and (category.is_thing or "semantic" not in annotated):
                self._findings.add("unused_category", detail=f"{category.id} {category.name!r}")

    def _find_similar_categories(self) -> None:
        first_names: dict[str, str] = {}
        for category in self._categories.categories:
            key = "".join(unicodedata.normalize("NFKC", category.name).casefold().split())
            first = first_names.setdefault(key, category.name)
            if first != category.name:
                self._findings.add("similar_categories", detail=f"{first!r} and {category.name!r}")

    def _compare_box_and_mask(
        self, box: Xywh, segmentation: Any, ids: tuple[Id, Id], size: tuple[int, int]
    ) -> None:
        mask_box = compute_bounding_box(segmentation, *size)
        # Polygons may extend beyond the image, while boxes are often clipped to it.
        ours, theirs = clip_to_image(box, size), clip_to_image(mask_box, size)
        across = max(APART_PIXELS, APART_SHARE * max(box[2], mask_box[2]))
        down = max(APART_PIXELS, APART_SHARE * max(box[3], mask_box[3]))
        if (
            max(abs(ours[0] - theirs[0]), abs(ours[2] - theirs[2])) > across
            or max(abs(ours[1] - theirs[1]), abs(ours[3] - theirs[3])) > down
        ):
            numbers = format_list(f"{value:g}" for value in mask_box)
            box_text = format_list(f"{value:g}" for value in box)
            self._findings.add(
                "box_apart", *ids, f"bbox [{box_text}], bounding box of the mask [{numbers}]"
            )
