"""Kinds of problems in COCO files, their messages, and how they are counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from resnet_tasks.errors import MAX_LISTED, DataError, limit_name, limit_path
from resnet_tasks.number_formats import Count

Id = int | str
RecordLocation = tuple[Literal["images", "annotations"], int]
Severity = Literal["error", "warning", "repaired", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem in a file.

    Attributes:
        kind: Short name from a fixed set (`unknown_category`, `missing_area`, ...).
        severity: `error`: the file is unusable. `warning`: an annotation or its mask is ignored, or
            it is used and results may mislead. `repaired`: the value is corrected on reading.
            `note`: the value is used unchanged.
        message: Sentence with the file, the ids and the remedy.
        image_id: Id of the first affected image.
        annotation_id: Id of the first affected annotation.
        count: Number of affected records. Each skipped record has a separate problem.
    """

    kind: str
    severity: Severity
    message: str
    image_id: Id | None = None
    annotation_id: Id | None = None
    count: int = 1

    @property
    def rank(self) -> tuple[int, int]:
        """Sort key of problems: by severity, worst first, then by their order in the table."""
        return _get_rank(self.kind)


@dataclass(frozen=True, slots=True)
class Finding:
    """Single occurrence of a problem.

    Attributes:
        kind: Short name of the problem; see `Problem`.
        image_id: Id of the affected image.
        annotation_id: Id of the affected annotation.
        detail: Offending value or other specifics for the message.
        location: List in the file (`images` or `annotations`) and the index in it, from 0.
    """

    kind: str
    image_id: Id | None = None
    annotation_id: Id | None = None
    detail: str = ""
    location: RecordLocation | None = None


FIX_HINT = "; `resnet-tasks data check FILE --fix COPY` repairs the usual variants of the format"
_CONVERT = " `resnet-tasks data check FILE --fix COPY --convert "
_KINDS: dict[str, tuple[Severity, str]] = {
    "unreadable": ("error", "{first}"),
    "bad_categories": ("error", "{first}; annotations were not checked" + FIX_HINT),
    "no_images": ("error", "the file contains no images"),
    "image_record": (
        "error",
        (
            "{n:image record} cannot be used: {first}; an image needs a whole-number or text `id`, "
            "a `file_name`, and `height` and `width` above 0" + FIX_HINT
        ),
    ),
    "image_path": (
        "error",
        (
            "{n:file name is} absolute or outside the image folder: {first}; `resnet-tasks data "
            "check FILE --fix COPY` replaces each by the only image of that name in the folder, "
            "which `images:` next to `annotations:` or --images here sets; or, if you trust the "
            "file, set `allow_outside: true` next to `annotations:` or pass --allow-outside here"
        ),
    ),
    "bad_spacing": (
        "error",
        (
            "{n:image has} a `spacing` that cannot be used: {first}; it is [y, x] in millimeters "
            "per pixel, two numbers above 0; fix or remove it"
        ),
    ),
    "duplicate_image": (
        "error",
        "{n:image id is} used more than once: {first}; give every image a unique id",
    ),
    "annotation_record": ("error", "{n:annotation} cannot be used: {first}" + FIX_HINT),
    "unknown_image": (
        "error",
        (
            "{n:annotation is} of an image that the file does not list: {first}; image ids look "
            "like {images}; add the images or remove the annotations" + FIX_HINT
        ),
    ),
    "unknown_category": (
        "error",
        (
            "{n:annotation has} a category id that the file does not list: {first}; known ids: "
            "{categories}; add the categories or fix the annotations" + FIX_HINT
        ),
    ),
    "missing_file": (
        "error",
        (
            "{n:named file is} missing: {first}; if the image folder is another one, set it with "
            "`images:` next to `annotations:` in a recipe, or with --images here"
        ),
    ),
    "unreadable_file": (
        "error",
        "{n:file} cannot be decoded: {first}; replace the file, or remove its image record",
    ),
    "wrong_size": (
        "error",
        (
            "{n:file has} another size than the image record: {first}; fix the record if its "
            "annotations fit the image as it is, otherwise replace the image"
        ),
    ),
    "turned_size": (
        "error",
        (
            "{n:image is} rotated by the EXIF orientation, but the image record gives the size as "
            "stored: {first}; boxes drawn on the stored pixels are misplaced on the upright image: "
            "store the images without the tag, or rotate size and annotations"
        ),
    ),
    "semantic_map": ("error", "{n:semantic map} cannot be used: {first}"),
    "categories_differ": ("error", "{first}"),
    "shared_group": (
        "error",
        (
            "{n:group has} images in another split too, so the same group is trained and evaluated "
            "on: {first}; split by group (resnet-tasks data split --by group)"
        ),
    ),
    "shared_image": (
        "error",
        "{n:image is} also in another split: {first}; keep each image in one split",
    ),
    "near_duplicate": (
        "warning",
        (
            "{n:image is} nearly the same as an image of another split: {first}; put all images of "
            "a scene, patient or sequence into one split"
        ),
    ),
    "absent_class": (
        "warning",
        (
            "{n:class has} objects in another split, but none in this one, which can neither train "
            "nor evaluate such a class: {first}; split by class (resnet-tasks data split --by "
            "class)"
        ),
    ),
    "box_apart": (
        "warning",
        (
            "{n:box does} not enclose the segmentation of the object: {first}; the box or the "
            "segmentation belongs to another object, or to another size of the image"
        ),
    ),
    "corner_boxes": (
        "warning",
        "{first}; if they are [x1, y1, x2, y2]," + _CONVERT + "corner_boxes` converts them",
    ),
    "relative_boxes": (
        "warning",
        "{first}; if they are fractions of the size," + _CONVERT + "relative_boxes` converts them",
    ),
    "all_crowd": (
        "warning",
        (
            "{n:category has} only objects with `iscrowd: 1`, which training ignores: "
            "{first}; if each is a single object, set `iscrowd` to 0 (CVAT writes 1 for brush "
            "masks, `data convert voc` for objects marked `difficult`)"
        ),
    ),
    "area_beyond_box": (
        "warning",
        (
            "{n:annotation has} an area greater than that of the box: {first}; the area decides "
            "whether an object counts as small, medium or large"
        ),
    ),
    "repeated_object": (
        "warning",
        (
            "{n:annotation is} the same as another one of the image in class, box and mask: "
            "{first}; each counts as a separate object that can only be missed"
        ),
    ),
    "mask_twin": (
        "warning",
        "{n:object is} annotated twice, with and without mask: {first}; remove the one without it",
    ),
    "similar_categories": (
        "warning",
        "{n:category name differs|category names differ} only in case or spaces: {first}",
    ),
    "missing_info": ("repaired", "the file has no `info`; taken as empty"),
    "missing_size": (
        "repaired",
        "{n:image has} no height and width, or 0 x 0; read from the images: {first}",
    ),
    "missing_id": ("repaired", "{n:annotation has} no id; new ids were assigned: {first}"),
    "duplicate_annotation": (
        "repaired",
        "{n:annotation id is} used more than once; the later ones were assigned new ids: {first}",
    ),
    "missing_iscrowd": ("repaired", "{n:annotation has} no `iscrowd`; taken as 0: {first}"),
    "missing_area": (
        "repaired",
        "{n:annotation has} no `area`; computed from mask or box: {first}",
    ),
    "bad_area": (
        "repaired",
        (
            "{n:annotation has} an area that is not a number of at least 0; computed from mask or "
            "box: {first}"
        ),
    ),
    "bad_visibility": (
        "repaired",
        (
            "{n:annotation has} an `occluded` that is not a number from 0 to 3, or a `truncated` "
            "that is not a number from 0 to 1; taken as unknown: {first}"
        ),
    ),
    "missing_bbox": (
        "repaired",
        "{n:annotation has} a segmentation but no box; box computed from the mask: {first}",
    ),
    "empty_box": (
        "warning",
        "{n:annotation is} skipped: {first}; width and height must be above 0" + FIX_HINT,
    ),
    "non_finite_box": (
        "warning",
        "{n:annotation is} skipped: {first}; the numbers of a box must be finite",
    ),
    "box_outside": (
        "warning",
        (
            "{n:annotation is} skipped: {first}; the box is completely outside the image; are the "
            "boxes in pixels of this image, as x, y, width, height?"
        ),
    ),
    "bad_segmentation": (
        "warning",
        (
            "{n:segmentation is} skipped, but not the box: {first}; polygons need at least three "
            "points (six numbers of at most a million), an RLE the size of its image" + FIX_HINT
        ),
    ),
    "mixed_depths": (
        "warning",
        (
            "the images have different bit depths ({first}), so that equal exposures may reach the "
            "model with different values; set data.intensity.type=percentile, or store all images "
            "with one bit depth"
        ),
    ),
    "unused_bits": ("warning", "{first}"),
    "missing_annotations": (
        "note",
        "the file has no `annotations`; its images count as not annotated, not as empty",
    ),
    "no_box": (
        "note",
        "{n:annotation has} neither box nor segmentation; taken as image-level label: {first}",
    ),
    "box_beyond_frame": (
        "note",
        (
            "{n:box is} partly outside the image; training uses the part inside, evaluation the "
            "box as it is: {first}"
        ),
    ),
    "keypoints": (
        "note",
        "{n:annotation has} keypoints, which are not used; only boxes and masks are: {first}",
    ),
    "repeated_file": ("note", "{n:file name is} used by more than one image: {first}"),
    "exif_turned": (
        "note",
        (
            "{n:image is} rotated by the EXIF orientation; this package always reads them upright, "
            "other tools may not: {first}"
        ),
    ),
    "unused_category": ("note", "{n:category has} no objects: {first}"),
}
"""Kind -> (severity, message template). `n` is a `Count` of the records, `{first}` lists the
first ones."""
_SKIPPED_KINDS = frozenset({"empty_box", "non_finite_box", "box_outside", "bad_segmentation"})
"""Kinds that get a problem for each offending record, because (part of) the record is not used."""


def get_severity(kind: str) -> Severity:
    """Return the severity of a kind of problem."""
    return _KINDS[kind][0]


class Findings:
    """Collector that counts problems by kind.

    It keeps the ids of the first few offending records, and of all records that are skipped.

    Args:
        path: Path of the COCO file.
        keep_all: Whether to keep every finding.

    Attributes:
        all: All findings in the order in which they were added, if `keep_all` is set.
        location: Location of the record that is being read.
        context: Values for further placeholders of the message templates.
    """

    def __init__(self, path: Path, *, keep_all: bool = False) -> None:
        self._path = path
        self._keep_all = keep_all
        self._offenders: dict[str, list[tuple[Id | None, Id | None, str]]] = {}
        self._counts: dict[str, int] = {}
        self.all: list[Finding] = []
        self.location: RecordLocation | None = None
        self.context: dict[str, str] = {"images": "", "categories": ""}

    def add(
        self,
        kind: str,
        image_id: Id | None = None,
        annotation_id: Id | None = None,
        detail: str = "",
    ) -> None:
        """Count one offending record of a kind; see `Finding` for the arguments."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        offenders = self._offenders.setdefault(kind, [])
        if len(offenders) < MAX_LISTED or (kind in _SKIPPED_KINDS and not self._keep_all):
            offenders.append((image_id, annotation_id, detail))
        if self._keep_all:
            self.all.append(Finding(kind, image_id, annotation_id, detail, self.location))

    def __contains__(self, kind: str) -> bool:
        return kind in self._counts

    def require_usable(self) -> tuple[Problem, ...]:
        """Return the problems of a usable file; see `to_problems`.

        Raises:
            DataError: If the file has errors. The message has all of them.
        """
        problems = self.to_problems()
        if errors := [problem.message for problem in problems if problem.severity == "error"]:
            raise DataError("\n".join(errors))
        return problems

    def to_problems(self) -> tuple[Problem, ...]:
        """Return the problems, worst first, one for each kind.

        Without `keep_all`, each skipped record has a separate problem.
        """
        problems: list[Problem] = []
        for kind in sorted(self._counts, key=_get_rank):
            offenders = self._offenders[kind]
            is_one_each = kind in _SKIPPED_KINDS and not self._keep_all
            groups = [[offender] for offender in offenders] if is_one_each else [offenders]
            for group in groups:
                severity, sentence = _KINDS[kind]
                count = 1 if is_one_each else self._counts[kind]
                first = ", ".join(_format_offender(*offender) for offender in group)
                if count > len(group):
                    first += ", ..."
                text = sentence.format(n=Count(count), first=first, **self.context)
                message = f"{self._path}: {text}"
                problems.append(Problem(kind, severity, message, group[0][0], group[0][1], count))
        return tuple(problems)


def _get_rank(kind: str) -> tuple[int, int]:
    return (SEVERITIES.index(get_severity(kind)), list(_KINDS).index(kind))


def _format_offender(image_id: Id | None, annotation_id: Id | None, detail: str) -> str:
    ids = (("annotation", annotation_id), ("image", image_id))
    location = " of ".join(f"{key} {value!r}" for key, value in ids if value is not None)
    location, detail = limit_name(location), limit_path(detail)
    return f"{location} ({detail})" if location and detail else location or detail
