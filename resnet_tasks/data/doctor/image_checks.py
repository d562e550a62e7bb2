"""Checks of the image files of a COCO file: existence, integrity, size, and perceptual hashes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import exists_with_slashes
from resnet_tasks.data.coco.problems import Findings
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.coco.semantic_maps import read_semantic_map
from resnet_tasks.data.doctor.image_content import (
    FileKey,
    ImageContent,
    KnownImages,
    identify_file,
    read_content,
)
from resnet_tasks.data.doctor.image_similarity import HASH_BYTES
from resnet_tasks.data.images.bit_depths import BitDepths
from resnet_tasks.data.images.find_images import find_file
from resnet_tasks.data.images.image_damage import describe_read_error
from resnet_tasks.data.images.image_files import DAMAGE, TURNED
from resnet_tasks.data.images.label_files import require_lossless
from resnet_tasks.errors import DataError
from resnet_tasks.files.foreign_files import find_address
from resnet_tasks.runtime.cpu_count import count_usable_cores

_AT_A_TIME = 256
"""Number of images in flight. Finished results are held until all earlier ones are recorded."""


@dataclass(frozen=True)
class ImageHashes:
    """Perceptual hashes of the images of a file.

    Attributes:
        values: `(P, HASH_BYTES)` uint8 hashes, in the order of the images.
        is_known: `(P,)` bool, false for images that are unreadable or have a single color.
    """

    values: NDArray[np.uint8]
    is_known: NDArray[np.bool_]


@dataclass(frozen=True)
class ImageReading:
    """Extent of the reading of image files.

    Attributes:
        decode: Whether to decode all files; otherwise their existence and headers are checked.
        hashes: Whether to compute the hashes of the images, which requires decoding them.
        known: Content of files that need not be read again; None: all are read.
    """

    decode: bool
    hashes: bool = False
    known: KnownImages | None = None


@dataclass(frozen=True)
class _ImageCheck:
    """Problems of the files of one image as (kind, detail), and the content of the image file."""

    problems: tuple[tuple[str, str], ...] = ()
    content: ImageContent | None = None


def check_images(
    images: Mapping[int, ImageRecord],
    roots: tuple[Path, Path],
    categories: CategoryMap | None,
    findings: Findings,
    reading: ImageReading,
    *,
    depths: BitDepths | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> ImageHashes | None:
    """Check the images and semantic maps of a file.

    Args:
        images: Position in the file -> image record.
        roots: Folders of the images and of the semantic maps.
        categories: Categories of the file. None skips the check of the values of semantic maps.
        findings: Collector of the problems.
        reading: Extent of the reading of the files.
        depths: Counter to which the bit depth of every image is added.
        advance: Progress callback, called with (done, total).

    Returns:
        Hashes of the images, or None if not requested.
    """
    image_hashes = None
    if reading.hashes:
        number = len(images)
        image_hashes = ImageHashes(
            np.zeros((number, HASH_BYTES), np.uint8), np.zeros(number, np.bool_)
        )

    def check(record: ImageRecord) -> _ImageCheck:
        return _check_image(record, roots, categories, reading)

    for index, (position, image_check) in enumerate(
        _check_in_order(images, check, in_parallel=reading.decode or reading.hashes)
    ):
        findings.location = ("images", position)
        for kind, detail in image_check.problems:
            findings.add(kind, images[position].id, detail=detail)
        content = image_check.content
        if image_hashes is not None and content is not None and content.hash is not None:
            image_hashes.values[index] = content.hash
            image_hashes.is_known[index] = True
        if depths is not None and content is not None:
            path = roots[0] / images[position].file_name
            depths.add_depth(path, images[position].extra, content.depth)
            depths.add_largest(content.largest)
        if advance is not None:
            advance(index + 1, len(images))
    findings.location = None
    return image_hashes


def _check_in_order(
    images: Mapping[int, ImageRecord],
    check: Callable[[ImageRecord], _ImageCheck],
    *,
    in_parallel: bool,
) -> Iterator[tuple[int, _ImageCheck]]:
    """Yield (position, result) in file order.

    Decoders release the GIL, so threads work in parallel.
    """
    if not in_parallel:
        for position, record in images.items():
            yield position, check(record)
        return
    items = list(images.items())
    with ThreadPoolExecutor(min(8, count_usable_cores())) as pool:
        for start in range(0, len(items), _AT_A_TIME):
            part = items[start : start + _AT_A_TIME]
            image_checks = pool.map(check, (record for _, record in part))
            yield from zip((position for position, _ in part), image_checks, strict=True)


def _check_image(
    record: ImageRecord,
    roots: tuple[Path, Path],
    categories: CategoryMap | None,
    reading: ImageReading,
) -> _ImageCheck:
    problems: list[tuple[str, str]] = []
    path = os.path.join(roots[0], record.file_name)  # noqa: PTH118 - fast
    if not record.file_name.isascii():
        path = str(find_file(Path(path)) or path)
    content = None
    if (key := identify_file(path)) is None:
        problems.append(("missing_file", _describe_missing(record, path)))
    else:
        content = _get_content(key, Path(path), reading)
        _check_content(record, Path(path), content, problems)
    if record.sem_seg_file_name is not None:
        map_path = os.path.join(roots[1], record.sem_seg_file_name)  # noqa: PTH118 - fast
        if not os.path.isfile(map_path):  # noqa: PTH113 - fast
            problems.append(("missing_file", map_path))
        elif reading.decode and categories is not None:
            _check_semantic_map(record, Path(map_path), categories, problems)
        else:
            _check_map_format(Path(map_path), problems)
    return _ImageCheck(tuple(problems), content)


def _describe_missing(record: ImageRecord, path: str) -> str:
    if (address := find_address(record.file_name)) is not None:
        return f"{address} is a URL, which is not downloaded"
    if exists_with_slashes(Path(path)):
        return f"{path}, which exists with / in place of \\, as --fix writes it"
    return path


def _get_content(key: FileKey, path: Path, reading: ImageReading) -> ImageContent:
    content = None if reading.known is None else reading.known.get(key)
    if content is None:
        decode = reading.decode or reading.hashes
        content = read_content(path, decode=decode, hashes=reading.hashes)
        if reading.known is not None:
            reading.known[key] = content
    return content


def _check_content(
    record: ImageRecord, path: Path, content: ImageContent, problems: list[tuple[str, str]]
) -> None:
    """Compare a decoded image with its record."""
    if content.problem:
        problems.append(("unreadable_file", f"{path}: {content.problem}"))
    if content.size is None:
        return
    exif_orientation = content.orientation
    height, width = content.size
    size_mismatch = (
        f"{path} is {width} x {height}, but the record has {record.width} x {record.height}"
    )
    if (height, width) == (record.height, record.width):
        if exif_orientation != 1:
            problems.append(("exif_turned", f"{path}, orientation {exif_orientation}"))
    elif exif_orientation in TURNED and (width, height) == (record.height, record.width):
        problems.append(("turned_size", f"{size_mismatch}, orientation {exif_orientation}"))
    else:
        problems.append(("wrong_size", size_mismatch))


def _check_semantic_map(
    record: ImageRecord, path: Path, categories: CategoryMap, problems: list[tuple[str, str]]
) -> None:
    try:
        read_semantic_map(path, categories, (record.height, record.width))
    except DataError as error:
        problems.append(("semantic_map", _format_reason(error, path)))


def _check_map_format(path: Path, problems: list[tuple[str, str]]) -> None:
    """Report a lossy format, which the first bytes of a file reveal without decoding it."""
    try:
        require_lossless(path, "label map")
    except DataError as error:
        problems.append(("semantic_map", _format_reason(error, path)))
    except DAMAGE:
        return  # Damage is only reported with `--read-images`.


def _format_reason(error: DataError, path: Path) -> str:
    """Return the error message with the path first."""
    return f"{path}: {describe_read_error(error, path)}"
