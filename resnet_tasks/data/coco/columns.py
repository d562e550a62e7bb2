"""COCO annotation and results files as columns of numbers: what evaluation of big files needs.

Clean files are decoded straight into columns, portion by portion. Anything unusual sends the whole
file to the slower readers, which repair it, or say what is wrong with its first entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.problems import Id, Problem
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import disable_gc

Kind = Literal["box", "mask"]
Box = tuple[float, float, float, float]

_VALIDATION_MODULE = "resnet_tasks.data.coco.checked_columns"
"""What repairs and explains; imported where it is needed: that takes longer than a clean file."""
_CHUNK_BYTES = 1 << 20
"""Bytes of a results file that are decoded at a time."""
_BETWEEN_ENTRIES = re.compile(rb"\}\s*,\s*(?=\{)")


@dataclass(frozen=True)
class TruthColumns:
    """The annotated objects of a COCO file.

    Attributes:
        path: The file.
        image_ids: In file order.
        sizes: `(P, 2)` height and width of the images.
        groups: Id of an image -> its group (patient, study, sequence), where it has one.
        categories: Ids to indices.
        images: `(G,)` indices into `image_ids`.
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
    images: NDArray[np.int64]
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
        images: `(D,)` indices into the truth's `image_ids`.
        labels: `(D,)` indices into the truth's `categories`.
        boxes: `(D, 4)` xywh; None where masks were asked for and come without.
        scores: `(D,)`.
        segmentations: One per detection; empty unless masks were asked for.
    """

    images: NDArray[np.int64]
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
    with disable_gc(), suppress(OverflowError):  # of whole numbers beyond 64 bits
        if (clean := _read_clean_truth(path, kind)) is not None:
            return clean
    repaired: TruthColumns = import_module(_VALIDATION_MODULE).read_repaired_truth(path, kind)
    return repaired


def _read_clean_truth(path: Path, kind: Kind) -> TruthColumns | None:
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
    ids = _extract_column(raw.images, "id", np.int64)
    objects: Sequence[_Object] = raw.annotations
    images, is_known = _find_positions(ids, _extract_column(objects, "image_id", np.int64))
    labels, is_labeled = _find_positions(
        np.asarray(categories.ids, np.int64), _extract_column(objects, "category_id", np.int64)
    )
    boxes = _extract_boxes(objects)
    areas = _extract_column(objects, "area", np.float64)
    crowd = _extract_column(objects, "iscrowd", np.int64)
    sizes = np.asarray([(image.height, image.width) for image in raw.images], np.int64)
    is_clean = (
        is_known.all()
        and is_labeled.all()
        and np.isfinite(boxes).all()
        and (boxes[:, 2:] >= 0).all()
        and ((areas >= 0) & np.isfinite(areas)).all()
        and np.isin(crowd, (0, 1)).all()
        and len(np.unique(ids)) == len(ids)
        and len(np.unique(_extract_column(objects, "id", np.int64))) == len(objects)
        and (sizes > 0).all()
    )
    if not is_clean:
        return None
    return TruthColumns(
        path,
        tuple(ids.tolist()),
        sizes.reshape(-1, 2),
        {image.id: str(image.group) for image in raw.images if image.group is not None},
        categories,
        images,
        labels,
        boxes,
        areas,
        crowd.astype(np.bool_),
        [annotation.segmentation for annotation in raw.annotations]
        if isinstance(raw, _MaskedFile)
        else (),
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
    with disable_gc(), suppress(OverflowError):
        if (clean := _read_clean_results(path, truth, kind)) is not None:
            return clean
    validated: ResultColumns = import_module(_VALIDATION_MODULE).read_validated_results(
        path, truth, kind
    )
    return validated


def _read_clean_results(path: Path, truth: TruthColumns, kind: Kind) -> ResultColumns | None:
    """The columns of a results file without any fault; None for any other."""
    is_masked = kind == "mask"
    form: Any = list[_MaskedDetection] if is_masked else list[_Detection]
    decoder = msgspec.json.Decoder(form)
    if not all(type(image_id) is int for image_id in truth.image_ids):
        return None
    image_ids, categories, scores, boxes, masks = [], [], [], [], []
    try:
        for chunk in _split_json_list(path.read_bytes()):
            rows: Sequence[Any] = decoder.decode(chunk)
            image_ids.append(_extract_column(rows, "image_id", np.int64))
            categories.append(_extract_column(rows, "category_id", np.int64))
            scores.append(_extract_column(rows, "score", np.float64))
            if not is_masked or all(row.bbox is not None for row in rows):
                boxes.append(_extract_boxes(rows))
            if is_masked:
                masks += [row.segmentation for row in rows]
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    images, is_known = _find_positions(
        np.asarray(truth.image_ids, np.int64), _concatenate(image_ids, np.int64)
    )
    labels, is_labeled = _find_positions(
        np.asarray(truth.categories.ids, np.int64), _concatenate(categories, np.int64)
    )
    values = _concatenate(scores, np.float64)
    has_boxes = len(boxes) == len(scores)
    all_boxes = np.concatenate([np.zeros((0, 4)), *boxes])
    is_clean = (
        is_known.all()
        and is_labeled.all()
        and np.isfinite(values).all()
        and np.isfinite(all_boxes).all()
        and (all_boxes[:, 2:] >= 0).all()
        and (has_boxes or not boxes)
        and not masks  # Run lengths are looked at one by one.
    )
    if not is_clean:
        return None
    return ResultColumns(images, labels, all_boxes, values)


def _split_json_list(raw: bytes) -> Iterator[bytes]:
    """A JSON list of objects as several shorter ones, cut between objects."""
    text = memoryview(raw)
    begin, end = raw.find(b"["), raw.rfind(b"]")
    if end - begin <= _CHUNK_BYTES or raw[:begin].strip() or raw[end + 1 :].strip():
        yield raw
        return
    begin += 1
    while begin < end:
        cut = _BETWEEN_ENTRIES.search(raw, min(begin + _CHUNK_BYTES, end), end)
        stop = end if cut is None else cut.start() + 1
        yield b"[" + text[begin:stop] + b"]"
        begin = end if cut is None else cut.end()


def _extract_column(rows: Sequence[Any], name: str, kind: Any) -> NDArray[Any]:
    return np.fromiter(map(attrgetter(name), rows), kind, len(rows))


def _extract_boxes(rows: Sequence[Any]) -> NDArray[np.float64]:
    flat = chain.from_iterable(map(attrgetter("bbox"), rows))
    return np.fromiter(flat, np.float64, 4 * len(rows)).reshape(-1, 4)


def _concatenate(arrays: Sequence[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *arrays])


def _find_positions(
    known_ids: NDArray[np.int64], requested_ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Index of each wanted id among the known ones, and whether it is there."""
    if not len(known_ids):
        return np.zeros(len(requested_ids), np.int64), np.zeros(len(requested_ids), np.bool_)
    order = np.argsort(known_ids)
    positions = order[
        np.searchsorted(known_ids, requested_ids, sorter=order).clip(max=len(known_ids) - 1)
    ]
    return positions, known_ids[positions] == requested_ids
