"""COCO annotation and results files as columns of numbers: what evaluation of big files needs.

Clean files are decoded straight into columns, portion by portion. Anything unusual sends the whole
file to the slower readers, which repair it, or say what is wrong with its first entries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco import read_coco
from resnet_tasks.data.coco_masks import is_rle, packed_polygon
from resnet_tasks.data.coco_parsing import find, is_box, read_json, uncollected
from resnet_tasks.data.coco_problems import SHOWN, Id, Problem, listed, shown
from resnet_tasks.errors import DataError

Kind = Literal["box", "mask"]
Box = tuple[float, float, float, float]

_PORTION = 1 << 20
"""Bytes of a results file that are decoded at a time."""
_BETWEEN_ENTRIES = re.compile(rb"\}\s*,\s*(?=\{)")


@dataclass(frozen=True)
class TruthColumns:
    """The annotated objects of a COCO file.

    Attributes:
        path: The file.
        image_ids: In file order.
        sizes: `(P, 2)` height and width of the pictures.
        groups: Id of a picture -> its group (patient, study, sequence), where it has one.
        categories: Ids to indices.
        pictures: `(G,)` indices into `image_ids`.
        labels: `(G,)` indices into `categories`.
        boxes: `(G, 4)` xywh as in the file, boxes without area included.
        areas: `(G,)` pixels², of the file.
        crowd: `(G,)`.
        segmentations: One per object, None where it has none; empty unless masks were asked for.
        problems: What was repaired.
    """

    path: Path
    image_ids: tuple[Id, ...]
    sizes: NDArray[np.int64]
    groups: Mapping[Id, str]
    categories: CategoryMap
    pictures: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    segmentations: Sequence[Any] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class ResultColumns:
    """The detections of a COCO results file.

    Attributes:
        pictures: `(D,)` indices into the truth's `image_ids`.
        labels: `(D,)` indices into the truth's `categories`.
        boxes: `(D, 4)` xywh; None where masks were asked for and come without.
        scores: `(D,)`.
        segmentations: One per detection; empty unless masks were asked for.
    """

    pictures: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64] | None
    scores: NDArray[np.float64]
    segmentations: Sequence[Any] = ()


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int
    group: str | int | None = None


class _Object(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: Box
    area: float
    iscrowd: int


class _MaskedObject(_Object):
    segmentation: Any = None


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Object]
    categories: list[dict[str, Any]]


class _MaskedFile(msgspec.Struct):
    images: list[_Image]
    annotations: list[_MaskedObject]
    categories: list[dict[str, Any]]


class _Detection(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: Box
    score: float


class _MaskedDetection(msgspec.Struct):
    image_id: int
    category_id: int
    score: float
    segmentation: dict[str, Any] | list[Any]
    bbox: Box | None = None


def read_truth_columns(path: str | Path, *, kind: Kind = "box") -> TruthColumns:
    """The objects of a COCO annotation file.

    Args:
        path: The JSON; small defects (`info`, `iscrowd`, `area`, ids) are repaired.
        kind: `mask` keeps the segmentations.

    Raises:
        DataError: If the file cannot be used; the message names the first bad entries.
    """
    path = Path(path)
    with uncollected():
        clean = _clean_truth(path, kind)
    return clean if clean is not None else _repaired_truth(path, kind)


def _clean_truth(path: Path, kind: Kind) -> TruthColumns | None:
    """The columns of a file that needs no repair; None for any other."""
    try:
        raw: _File | _MaskedFile
        if kind == "mask":
            raw = msgspec.json.decode(path.read_bytes(), type=_MaskedFile)
        else:
            raw = msgspec.json.decode(path.read_bytes(), type=_File)
        categories = CategoryMap.from_json(raw.categories)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError, DataError):
        return None
    ids = _column(raw.images, "id", np.int64)
    objects: Sequence[_Object] = raw.annotations
    pictures, is_known = _places(ids, _column(objects, "image_id", np.int64))
    labels, is_labelled = _places(
        np.asarray(categories.ids, np.int64), _column(objects, "category_id", np.int64)
    )
    boxes = _boxes(objects)
    areas = _column(objects, "area", np.float64)
    crowd = _column(objects, "iscrowd", np.int64)
    sizes = np.asarray([(each.height, each.width) for each in raw.images], np.int64)
    is_clean = (
        is_known.all()
        and is_labelled.all()
        and np.isfinite(boxes).all()
        and (boxes[:, 2:] >= 0).all()
        and ((areas >= 0) & np.isfinite(areas)).all()
        and np.isin(crowd, (0, 1)).all()
        and len(np.unique(ids)) == len(ids)
        and len(np.unique(_column(objects, "id", np.int64))) == len(objects)
        and (sizes > 0).all()
    )
    if not is_clean:
        return None
    return TruthColumns(
        path,
        tuple(ids.tolist()),
        sizes.reshape(-1, 2),
        {each.id: str(each.group) for each in raw.images if each.group is not None},
        categories,
        pictures,
        labels,
        boxes,
        areas,
        crowd.astype(np.bool_),
        [each.segmentation for each in raw.annotations] if isinstance(raw, _MaskedFile) else (),
    )


def _repaired_truth(path: Path, kind: Kind) -> TruthColumns:
    coco = read_coco(path, keep_degenerate=True)
    if "boxes" not in coco.annotated:
        raise DataError(
            f"{path} annotates {listed(sorted(coco.annotated))}, not boxes; give `annotations` "
            "with `bbox`, or choose another task"
        )
    rows = [
        (picture, each)
        for picture, record in enumerate(coco.images)
        for each in coco.annotations[record.id]
        if each.bbox is not None
    ]
    return TruthColumns(
        path,
        tuple(record.id for record in coco.images),
        np.asarray([(r.height, r.width) for r in coco.images], np.int64).reshape(-1, 2),
        {r.id: r.group for r in coco.images if r.group is not None},
        coco.categories,
        np.asarray([picture for picture, _ in rows], np.int64),
        np.asarray([each.category for _, each in rows], np.int64),
        np.asarray([each.bbox for _, each in rows], np.float64).reshape(-1, 4),
        np.asarray([each.area for _, each in rows], np.float64),
        np.asarray([each.is_crowd for _, each in rows], np.bool_),
        [each.segmentation for _, each in rows] if kind == "mask" else (),
        coco.problems,
    )


def read_result_columns(
    path: str | Path, truth: TruthColumns, *, kind: Kind = "box"
) -> ResultColumns:
    """The detections of a COCO results file, every entry checked against the truth.

    Args:
        path: JSON, a list of `{image_id, category_id, bbox: [x, y, w, h], score}`; masks:
            `segmentation` (run lengths or polygons) in place of `bbox` or beside it.
        truth: What it belongs to.
        kind: What is judged.

    Raises:
        DataError: If it is no such list, or an entry has an unknown image or category, or no box,
            mask or score that can be evaluated; the message names the first ones.
    """
    path = Path(path)
    with uncollected():
        clean = _clean_results(path, truth, kind)
    return clean if clean is not None else _checked_results(path, truth, kind)


def _clean_results(path: Path, truth: TruthColumns, kind: Kind) -> ResultColumns | None:
    """The columns of a results file without any fault; None for any other."""
    is_masked = kind == "mask"
    form: Any = list[_MaskedDetection] if is_masked else list[_Detection]
    decoder = msgspec.json.Decoder(form)
    if not all(type(each) is int for each in truth.image_ids):
        return None
    images, categories, scores, boxes, masks = [], [], [], [], []
    try:
        for portion in _portions(path.read_bytes()):
            rows: Sequence[Any] = decoder.decode(portion)
            images.append(_column(rows, "image_id", np.int64))
            categories.append(_column(rows, "category_id", np.int64))
            scores.append(_column(rows, "score", np.float64))
            if not is_masked or all(row.bbox is not None for row in rows):
                boxes.append(_boxes(rows))
            if is_masked:
                masks += [row.segmentation for row in rows]
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
        return None
    pictures, is_known = _places(np.asarray(truth.image_ids, np.int64), _joined(images, np.int64))
    labels, is_labelled = _places(
        np.asarray(truth.categories.ids, np.int64), _joined(categories, np.int64)
    )
    values = _joined(scores, np.float64)
    has_boxes = len(boxes) == len(scores)
    found = np.concatenate([np.zeros((0, 4)), *boxes])
    is_clean = (
        is_known.all()
        and is_labelled.all()
        and np.isfinite(values).all()
        and np.isfinite(found).all()
        and (found[:, 2:] >= 0).all()
        and (has_boxes or not boxes)
        and not masks  # Run lengths are looked at one by one.
    )
    if not is_clean:
        return None
    return ResultColumns(pictures, labels, found, values)


def _portions(raw: bytes) -> Iterator[bytes]:
    """A JSON list of objects as several shorter ones, cut between objects."""
    text = memoryview(raw)
    begin, end = raw.find(b"["), raw.rfind(b"]")
    if end - begin <= _PORTION or raw[:begin].strip() or raw[end + 1 :].strip():
        yield raw
        return
    begin += 1
    while begin < end:
        cut = _BETWEEN_ENTRIES.search(raw, min(begin + _PORTION, end), end)
        stop = end if cut is None else cut.start() + 1
        yield b"[" + text[begin:stop] + b"]"
        begin = end if cut is None else cut.end()


@dataclass
class _Faults:
    """What is wrong with the entries of a results file, by kind."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, remedy: str, where: str) -> None:
        self.counts[remedy] = self.counts.get(remedy, 0) + 1
        named = self.first.setdefault(remedy, [])
        if len(named) < SHOWN:
            named.append(where)

    def message(self, path: Path, number: int) -> str:
        lines = []
        for remedy, named in self.first.items():
            count = self.counts[remedy]
            more = f", ... ({count} of {number} entries)" if count > len(named) else ""
            lines.append(f"{path}: {', '.join(named)}{more}; {remedy}")
        return "\n".join(lines)


def _checked_results(path: Path, truth: TruthColumns, kind: Kind) -> ResultColumns:
    """Every entry looked at in turn."""
    raw = read_json(path)
    form = "{image_id, category_id, " + ("bbox" if kind == "box" else "segmentation") + ", score}"
    if isinstance(raw, dict):
        lists = [key for key, value in raw.items() if isinstance(value, list)]
        inside = f"; write the list under `{lists[0]}` alone to the file" if lists else ""
        raise DataError(
            f"{path}: a COCO results file is a list of {form}, got an object with the keys "
            f"{listed(map(repr, raw))}{inside}"
        )
    if not isinstance(raw, list):
        raise DataError(f"{path}: a COCO results file is a list of {form}, got {shown(raw)}")
    entries = _Entries(truth, kind)
    for position, entry in enumerate(raw):
        entries.take(position, entry)
    if entries.faults.counts:
        raise DataError(entries.faults.message(path, len(raw)))
    has_box = [entry.get("bbox") is not None for entry in raw]
    if any(has_box) and not all(has_box):
        raise DataError(
            f"{path}: entry {has_box.index(False)} has no bbox, others have; give it to all "
            "entries (objects are then small or large by their box) or to none (by their mask)"
        )
    table, indices = entries.pictures, truth.categories.index_table
    return ResultColumns(
        np.asarray([table[entry["image_id"]] for entry in raw], np.int64),
        np.asarray([indices[entry["category_id"]] for entry in raw], np.int64),
        np.asarray([entry["bbox"] for entry in raw], np.float64).reshape(-1, 4)
        if all(has_box)
        else None,
        np.asarray([entry["score"] for entry in raw], np.float64),
        [entry["segmentation"] for entry in raw] if kind == "mask" else (),
    )


class _Entries:
    """The entries of a results file, checked one by one."""

    def __init__(self, truth: TruthColumns, kind: Kind) -> None:
        self.pictures: dict[Id, int] = {each: i for i, each in enumerate(truth.image_ids)}
        self.faults = _Faults()
        self._truth = truth
        self._kind = kind

    def take(self, position: int, entry: Any) -> None:
        """Looks at one entry."""
        faults, where = self.faults, f"entry {position}"
        if not isinstance(entry, dict):
            faults.add("every entry must be an object", f"{where} is {shown(entry)}")
            return
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        picture = find(self.pictures, image_id)
        if picture is None:
            faults.add(self._image_remedy(image_id), f"{where} has image_id {shown(image_id)}")
            return
        where = f"{where} (image {image_id!r})"
        if find(self._truth.categories.index_table, category_id) is None:
            known = listed(self._truth.categories.ids, 100)
            faults.add(
                f"known: {known}; ids are those of the truth's `categories`, not indices or names",
                f"{where} has category_id {shown(category_id)}",
            )
        self._look_at_box(entry, where)
        self._look_at_mask(entry, where, picture)
        score = entry.get("score")
        if not _is_finite(score):
            faults.add("it must be a finite number", f"{where} has score {shown(score)}")

    def _image_remedy(self, image_id: Any) -> str:
        known = f"{self._truth.path} does not have it; its ids look like {listed(self.pictures)}"
        if isinstance(image_id, str) and image_id.isdecimal() and int(image_id) in self.pictures:
            first = next(str(each) for each in self.pictures if type(each) is int)
            return f"ids are numbers there, not text: write {first}, not {first!r}"
        if type(image_id) is int and str(image_id) in self.pictures:
            first = next(e for e in self.pictures if isinstance(e, str) and e.isdecimal())
            return f"ids are text there, not numbers: write {first!r}, not {first}"
        return known

    def _look_at_box(self, entry: dict[str, Any], where: str) -> None:
        box = entry.get("bbox")
        if box is None and self._kind == "mask":
            return
        if not is_box(box) or not all(map(_is_finite, box)):
            self.faults.add(
                "it must be [x, y, width, height], finite numbers in pixels",
                f"{where} has bbox {shown(box)}",
            )
        elif min(box[2:]) < 0:
            self.faults.add(
                "width and height must be 0 or more: it is [x, y, width, height], not corners",
                f"{where} has bbox {shown(box)}",
            )

    def _look_at_mask(self, entry: dict[str, Any], where: str, picture: int) -> None:
        if self._kind != "mask":
            return
        mask = entry.get("segmentation")
        height, width = self._truth.sizes[picture].tolist()
        if isinstance(mask, dict):
            is_usable = is_rle(mask, height, width)
        else:
            is_usable = isinstance(mask, list) and all(
                packed_polygon(polygon) is not None for polygon in mask
            )
        if not mask or not is_usable:
            self.faults.add(
                "it must be polygons of at least six numbers, or run lengths of the picture's size "
                "[height, width]",
                f"{where} of height {height} and width {width} has segmentation {shown(mask)}",
            )


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # A whole number beyond all floats.
        return False


def _column(rows: Sequence[Any], name: str, kind: Any) -> NDArray[Any]:
    return np.fromiter(map(attrgetter(name), rows), kind, len(rows))


def _boxes(rows: Sequence[Any]) -> NDArray[np.float64]:
    flat = chain.from_iterable(map(attrgetter("bbox"), rows))
    return np.fromiter(flat, np.float64, 4 * len(rows)).reshape(-1, 4)


def _joined(parts: Sequence[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *parts])


def _places(
    known: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Index of each wanted id among the known ones, and whether it is there."""
    if not len(known):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    order = np.argsort(known)
    place = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    return place, known[place] == wanted
