"""The files that a COCO file names: there, whole, of the stated size, and what they look like."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco_problems import Findings
from resnet_tasks.data.coco_records import ImageRecord
from resnet_tasks.data.decoding import read_stored
from resnet_tasks.data.doctor.likeness import HASH_BYTES, difference_hash
from resnet_tasks.data.label_files import require_lossless
from resnet_tasks.data.picture_files import DAMAGE, TURNED, orientation
from resnet_tasks.data.semantic_maps import read_semantic
from resnet_tasks.errors import DataError
from resnet_tasks.processors import usable_cores

_AT_A_TIME = 256
"""Pictures whose results wait to be filed."""


@dataclass(frozen=True)
class Hashes:
    """What the pictures of a file look like.

    Attributes:
        values: `(P, HASH_BYTES)` uint8, in the order of the images.
        is_known: `(P,)`: false for pictures that are unreadable or of one colour.
    """

    values: NDArray[np.uint8]
    is_known: NDArray[np.bool_]


@dataclass(frozen=True)
class _Seen:
    """What was found in the files of one image: (kind, detail), and the hash of the picture."""

    problems: tuple[tuple[str, str], ...] = ()
    hash: NDArray[np.uint8] | None = None


def check_pictures(
    images: Mapping[int, ImageRecord],
    roots: tuple[Path, Path],
    categories: CategoryMap | None,
    findings: Findings,
    *,
    read: bool,
    hashes: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> Hashes | None:
    """Looks at the pictures and semantic maps of a file.

    Args:
        images: By position in the file.
        roots: Folders of the pictures and of the semantic maps.
        categories: Of the file; None leaves the values of semantic maps unchecked.
        findings: Where problems go.
        read: Decode everything; else only look whether it is there.
        hashes: Make the hashes of the pictures, which decodes them.
        advance: For progress.

    Returns:
        The hashes, where asked for.
    """
    made = None
    if hashes:
        number = len(images)
        made = Hashes(np.zeros((number, HASH_BYTES), np.uint8), np.zeros(number, np.bool_))

    def look(record: ImageRecord) -> _Seen:
        return _look(record, roots, categories, read=read, hashes=hashes)

    for index, (position, seen) in enumerate(_looked_at(images, look, beside=read or hashes)):
        findings.place = ("images", position)
        for kind, detail in seen.problems:
            findings.add(kind, images[position].id, detail=detail)
        if made is not None and seen.hash is not None:
            made.values[index] = seen.hash
            made.is_known[index] = True
        if advance is not None:
            advance(index + 1, len(images))
    findings.place = None
    return made


def _looked_at(
    images: Mapping[int, ImageRecord], look: Callable[[ImageRecord], _Seen], *, beside: bool
) -> Iterator[tuple[int, _Seen]]:
    """In the order of the file; decoders leave Python's lock, so that threads share the work."""
    if not beside:
        for position, record in images.items():
            yield position, look(record)
        return
    items = list(images.items())
    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        for start in range(0, len(items), _AT_A_TIME):
            part = items[start : start + _AT_A_TIME]
            found = pool.map(look, (record for _, record in part))
            yield from zip((position for position, _ in part), found, strict=True)


def _look(
    record: ImageRecord,
    roots: tuple[Path, Path],
    categories: CategoryMap | None,
    *,
    read: bool,
    hashes: bool,
) -> _Seen:
    problems: list[tuple[str, str]] = []
    path = os.path.join(roots[0], record.file_name)  # noqa: PTH118 - fast
    digest = None
    if not os.path.isfile(path):  # noqa: PTH113 - fast
        problems.append(("missing_file", path))
    elif read or hashes:
        digest = _look_at_picture(record, Path(path), problems, hashes=hashes)
    if record.sem_seg_file_name is not None:
        map_path = os.path.join(roots[1], record.sem_seg_file_name)  # noqa: PTH118 - fast
        if not os.path.isfile(map_path):  # noqa: PTH113 - fast
            problems.append(("missing_file", map_path))
        elif read and categories is not None:
            _look_at_map(record, Path(map_path), categories, problems)
        else:
            _check_map_format(Path(map_path), problems)
    return _Seen(tuple(problems), digest)


def _look_at_picture(
    record: ImageRecord, path: Path, problems: list[tuple[str, str]], *, hashes: bool
) -> NDArray[np.uint8] | None:
    try:
        stored = read_stored(path)
    except DataError as error:
        problems.append(("unreadable_file", _reason(error, path)))
        return None
    height, width = stored.pixels.shape[:2]
    turned = orientation(path)
    told = f"{path} is {width} x {height}, the record says {record.width} x {record.height}"
    if (height, width) == (record.height, record.width):
        if turned != 1:
            problems.append(("exif_turned", f"{path}, orientation {turned}"))
    elif turned in TURNED and (width, height) == (record.height, record.width):
        problems.append(("turned_size", f"{told}, orientation {turned}"))
    else:
        problems.append(("wrong_size", told))
    return difference_hash(stored) if hashes else None


def _look_at_map(
    record: ImageRecord, path: Path, categories: CategoryMap, problems: list[tuple[str, str]]
) -> None:
    try:
        read_semantic(path, categories, (record.height, record.width))
    except DataError as error:
        problems.append(("semantic_map", _reason(error, path)))


def _check_map_format(path: Path, problems: list[tuple[str, str]]) -> None:
    """Report a lossy format, which the first bytes of a file show without decoding it."""
    try:
        require_lossless(path, "label map")
    except DataError as error:
        problems.append(("semantic_map", _reason(error, path)))
    except DAMAGE:
        return  # Only `--read-images` looks for damage.


def _reason(error: DataError, path: Path) -> str:
    """What is wrong, with the path first."""
    text = str(error)
    for start in (f"picture {path} ", f"label map {path} ", f"{path} "):
        text = text.removeprefix(start)
    return f"{path}: {text}"
