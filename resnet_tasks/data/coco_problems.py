"""What can be wrong with a COCO file, in one table, and how it is counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SHOWN = 5
"""How many offenders a message names."""


Id = int | str


Severity = Literal["error", "repaired", "left out", "note"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be in a file.

    Attributes:
        kind: One of a fixed set of short names (`unknown_category`, `missing_area`, ...).
        severity: `error`: the file cannot be worked with. `repaired`: read as if it were right.
            `left out`: an annotation or its mask is not used. `note`: used as it is.
        message: One sentence with the file, the ids and what to do.
        image_id: Of the first picture concerned.
        annotation_id: Of the first annotation concerned.
        count: How many are concerned; left-out ones have a problem each.
    """

    kind: str
    severity: Severity
    message: str
    image_id: Id | None = None
    annotation_id: Id | None = None
    count: int = 1


_KINDS: dict[str, tuple[Severity, str]] = {
    "image_record": (
        "error",
        (
            "{n} image record(s) cannot be used: {first}; an image needs a whole-number or text "
            "`id`, a `file_name`, and `height` and `width` above 0"
        ),
    ),
    "image_path": (
        "error",
        (
            "{n} file name(s) lead out of the images folder or are absolute: {first}; write them "
            "relative to the folder and name the folder with `images:`"
        ),
    ),
    "bad_spacing": (
        "error",
        (
            "{n} image(s) have a `spacing` that cannot be used: {first}; it is [y, x] in "
            "millimetres per pixel, two numbers above 0; mend or remove it"
        ),
    ),
    "duplicate_image": (
        "error",
        "{n} image id(s) appear more than once: {first}; give every picture its own id",
    ),
    "annotation_record": (
        "error",
        "{n} annotation(s) cannot be used: {first}",
    ),
    "unknown_image": (
        "error",
        (
            "{n} annotation(s) belong to images that the file does not list: {first}; image ids "
            "look like {images}; add the images or remove the annotations"
        ),
    ),
    "unknown_category": (
        "error",
        (
            "{n} annotation(s) have a category id that the file does not list: {first}; known ids: "
            "{categories}; add the categories or mend the annotations"
        ),
    ),
    "missing_info": ("repaired", "the file has no `info`; taken as empty"),
    "missing_size": (
        "repaired",
        "{n} image(s) have no height and width; read from the pictures: {first}",
    ),
    "missing_id": ("repaired", "{n} annotation(s) have no id; numbered anew: {first}"),
    "duplicate_annotation": (
        "repaired",
        "{n} annotation id(s) appear more than once; the later ones are numbered anew: {first}",
    ),
    "missing_iscrowd": ("repaired", "{n} annotation(s) have no `iscrowd`; taken as 0: {first}"),
    "missing_area": (
        "repaired",
        "{n} annotation(s) have no `area`; computed from mask or box: {first}",
    ),
    "bad_area": (
        "repaired",
        (
            "{n} annotation(s) have an area that is no number of at least 0; computed from mask or "
            "box: {first}"
        ),
    ),
    "bad_visibility": (
        "repaired",
        (
            "{n} annotation(s) have an `occluded` that is no number of 0 to 3, or a `truncated` "
            "that is none of 0 to 1; taken as unknown: {first}"
        ),
    ),
    "missing_bbox": (
        "repaired",
        "{n} annotation(s) have a segmentation and no box; the box is drawn around it: {first}",
    ),
    "empty_box": (
        "left out",
        "{first} is left out: its width and height must be above 0",
    ),
    "non_finite_box": ("left out", "{first} is left out: its numbers must be finite"),
    "box_outside": (
        "left out",
        (
            "{first} is left out: it lies wholly outside its picture; are these pixels of this "
            "picture, as x, y, width, height?"
        ),
    ),
    "bad_segmentation": (
        "left out",
        (
            "the segmentation of {first} is left out, its box is kept: polygons need at least "
            "three points (six numbers of at most a million), run lengths the size of their picture"
        ),
    ),
    "missing_annotations": (
        "note",
        "the file has no `annotations`; its pictures count as not annotated, not as empty",
    ),
    "no_box": (
        "note",
        (
            "{n} annotation(s) have neither box nor segmentation and count as image-level labels: "
            "{first}"
        ),
    ),
    "box_beyond_frame": (
        "note",
        (
            "{n} box(es) reach beyond their picture; training uses the part inside, evaluation the "
            "box as it is: {first}"
        ),
    ),
    "repeated_file": ("note", "{n} file name(s) are used by more than one image: {first}"),
}
"""Kind -> (severity, sentence); `{first}` names the offenders."""


class Findings:
    """Counts problems by kind; keeps the ids of the first few, of left-out ones all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, list[tuple[Id | None, Id | None, str]]] = {}
        self._counts: dict[str, int] = {}
        self.context: dict[str, str] = {"images": "", "categories": ""}

    def add(
        self,
        kind: str,
        image_id: Id | None = None,
        annotation_id: Id | None = None,
        detail: str = "",
    ) -> None:
        """Counts one offender of this kind; `detail` says what was given."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        shown = self._found.setdefault(kind, [])
        if len(shown) < SHOWN or _KINDS[kind][0] == "left out":
            shown.append((image_id, annotation_id, detail))

    def __contains__(self, kind: str) -> bool:
        return kind in self._counts

    def has_errors(self) -> bool:
        """Whether anything found keeps the file from being used."""
        return any(_KINDS[kind][0] == "error" for kind in self._counts)

    def problems(self) -> tuple[Problem, ...]:
        """All that was found, errors first; one for each kind, and for each thing left out."""
        found: list[Problem] = []
        for kind in (kind for kind in _KINDS if kind in self._counts):
            severity, sentence = _KINDS[kind]
            shown = self._found[kind]
            groups = [[each] for each in shown] if severity == "left out" else [shown]
            for group in groups:
                count = 1 if severity == "left out" else self._counts[kind]
                first = ", ".join(_offender(*each) for each in group)
                if count > len(group):
                    first += ", ..."
                text = sentence.format(n=count, first=first, **self.context)
                message = f"{self._path}: {text}"
                found.append(Problem(kind, severity, message, group[0][0], group[0][1], count))
        return tuple(found)


def _offender(image_id: Id | None, annotation_id: Id | None, detail: str) -> str:
    parts = []
    if annotation_id is not None:
        parts.append(f"annotation {annotation_id!r}")
    if image_id is not None:
        parts.append(f"image {image_id!r}")
    where = " of ".join(parts)
    return f"{where} ({detail})" if where and detail else where or detail


def summary(problems: Iterable[Problem]) -> dict[str, int]:
    """Number of problems by kind, most frequent first."""
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.kind] = counts.get(problem.kind, 0) + problem.count
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def listed(values: Iterable[object], limit: int = SHOWN) -> str:
    """The first values and, where there are more, how many."""
    items = [str(value) for value in values]
    shown = ", ".join(items[:limit]) or "none"
    return shown + (f", ... ({len(items)} in all)" if len(items) > limit else "")


def shown(value: object) -> str:
    """A value as a message shows it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
