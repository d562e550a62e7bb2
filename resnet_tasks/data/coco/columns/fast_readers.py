"""Fast readers of valid COCO files, which decode JSON straight into columns, chunk by chunk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.columns.object_columns import Kind, ResultColumns, TruthColumns
from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import read_file_or_pipe

Box = tuple[float, float, float, float]

_CHUNK_BYTES = 1 << 20
"""Number of bytes of a results file that are decoded at a time."""

_BETWEEN_ENTRIES = re.compile(rb"\}\s*,\s*(?=\{)")


# Structs without containers need no tracking by the garbage collector (gc=False).
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


def read_clean_truth(path: Path, kind: Kind) -> TruthColumns | None:
    """Return the columns of an annotation file that needs no repair, or None for any other file."""
    try:
        raw: _File | _MaskedFile
        if kind == "mask":
            raw = msgspec.json.decode(read_file_or_pipe(path), type=_MaskedFile)
        else:
            raw = msgspec.json.decode(read_file_or_pipe(path), type=_File)
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


def read_clean_results(path: Path, truth: TruthColumns) -> ResultColumns | None:
    """Return the columns of a results file of boxes without faults, or None for any other file."""
    decoder = msgspec.json.Decoder(list[_Detection])
    if not all(type(image_id) is int for image_id in truth.image_ids):
        return None
    image_ids, categories, scores, boxes = [], [], [], []
    try:
        for chunk in _split_json_list(read_file_or_pipe(path)):
            rows = decoder.decode(chunk)
            image_ids.append(_extract_column(rows, "image_id", np.int64))
            categories.append(_extract_column(rows, "category_id", np.int64))
            scores.append(_extract_column(rows, "score", np.float64))
            boxes.append(_extract_boxes(rows))
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    images, is_known = _find_positions(
        np.asarray(truth.image_ids, np.int64), _concatenate(image_ids, np.int64)
    )
    labels, is_labeled = _find_positions(
        np.asarray(truth.categories.ids, np.int64), _concatenate(categories, np.int64)
    )
    values = _concatenate(scores, np.float64)
    all_boxes = np.concatenate([np.zeros((0, 4)), *boxes])
    is_clean = (
        is_known.all()
        and is_labeled.all()
        and np.isfinite(values).all()
        and np.isfinite(all_boxes).all()
        and (all_boxes[:, 2:] >= 0).all()
    )
    if not is_clean:
        return None
    return ResultColumns(images, labels, all_boxes, values)


def _split_json_list(raw: bytes) -> Iterator[bytes]:
    """Split a JSON list of objects into several shorter lists, cut between objects."""
    text = memoryview(raw)
    begin, end = raw.find(b"["), raw.rfind(b"]")
    if end - begin <= _CHUNK_BYTES or raw[:begin].strip() or raw[end + 1 :].strip():
        yield raw
        return
    begin += 1
    while begin < end:
        # A cut inside a string or a nested object gives invalid JSON, so that decoding fails and
        # the validating reader takes over.
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
    """Return the index of each requested id among the known ids, and whether it is known."""
    if not len(known_ids):
        return np.zeros(len(requested_ids), np.int64), np.zeros(len(requested_ids), np.bool_)
    order = np.argsort(known_ids)
    positions = order[
        np.searchsorted(known_ids, requested_ids, sorter=order).clip(max=len(known_ids) - 1)
    ]
    return positions, known_ids[positions] == requested_ids
