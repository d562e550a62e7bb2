"""Packed form of large COCO files, which loads in about a second.

The packed file is stored next to the JSON file, or in a cache folder if the folder of the JSON file
is not writable. It is valid only for the exact bytes from which it was made: every read compares
their hash and the format version. It consists of safetensors and JSON, and its contents are
validated like those of the JSON file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.packed.annotations import PackedAnnotations
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.problems import Problem
from resnet_tasks.data.coco.top_level import resolve_image_folder
from resnet_tasks.errors import DataError
from resnet_tasks.files.mapped_columns import MappedColumns, open_columns, write_columns
from resnet_tasks.files.safe_names import is_inside

CACHE_FROM = 32_000_000
"""Size in bytes from which a JSON file gets a packed form. Such a file takes several seconds to
read."""
CACHE_FOLDER = "RESNET_TASKS_CACHE"
"""Environment variable with the folder for packed files that should not be next to their JSON
files."""
VERSION = 1
"""Format version. A file with another version is rebuilt."""


@dataclass(frozen=True)
class _Source:
    """Content hash and read options of the JSON file that a packed form represents.

    Attributes:
        path: Path of the JSON file.
        digest: BLAKE2b hash of its bytes, hexadecimal.
        state: (size in bytes, modification time in nanoseconds) at the time of hashing.
        annotated: Kinds of annotations that the caller declares, sorted; None if not declared.
    """

    path: Path
    digest: str
    state: tuple[int, int]
    annotated: list[str] | None


class CocoCache:
    """Packed form of one large COCO file, which may not exist yet.

    Args:
        path: Path of the JSON file.
        annotated: Kinds of annotations that the caller declares; see `read_coco`.
    """

    def __init__(self, path: Path, annotated: Iterable[str] | None) -> None:
        self._started = monotonic()
        declared = None if annotated is None else sorted(annotated)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
        self._source = _Source(path, digest.hexdigest(), _read_file_state(path), declared)
        kind = "" if declared is None else f".{'+'.join(declared)}"
        name = f"{path.name}{kind}.packed.safetensors"
        default_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache_folder = os.environ.get(CACHE_FOLDER)
        folder = (
            Path(cache_folder) if cache_folder else default_folder / "resnet-tasks" / "annotations"
        )
        self._paths = [folder / f"{self._source.digest}-{name}"]
        if not cache_folder:
            self._paths.insert(0, path.with_name(name))
        self._warning = ""

    def load(self, images_root: str | Path | None) -> CocoFile | None:
        """Return the file from its packed form, or None if there is no valid packed form.

        Raises:
            DataError: If the folder `images_root` does not exist.
        """
        for cache_path in self._paths:
            try:
                coco = self._open(cache_path, images_root)
            except OSError:
                continue
            except _DamagedCache as error:
                self._warning = f"{cache_path} {error}, and was rebuilt; "
                continue
            if coco is not None:
                seconds = monotonic() - self._started
                coco.note = f"opened in {seconds:.1f} s from {cache_path}"
                return coco
        return None

    def store(self, coco: CocoFile, images_root: str | Path | None) -> CocoFile:
        """Write the packed form of a parsed file and return the file as loaded from it.

        If no folder is writable, or the JSON file has changed since it was hashed, `coco` is
        returned.
        """
        seconds = monotonic() - self._started
        coco.note = f"{self._warning}read in {seconds:.1f} s"
        if _read_file_state(self._source.path) != self._source.state:
            return coco  # the JSON file was modified while it was read
        refusals = []
        for cache_path in self._paths:
            try:
                cache_path.parent.mkdir(parents=True, exist_ok=True)
                columns = {**coco.images.columns, **coco.annotations.columns}
                write_columns(cache_path, columns, self._build_metadata(coco))
                cached = self._open(cache_path, images_root)
            except OSError as error:
                refusals.append(f"{cache_path.parent}: {error.strerror or error}")
                continue
            assert cached is not None
            cached.note = f"{coco.note}; cached in {cache_path}"
            return cached
        coco.note += (
            f"; it could not be cached ({'; '.join(refusals)}): set ${CACHE_FOLDER} to a writable "
            "folder"
        )
        return coco

    def _build_metadata(self, coco: CocoFile) -> dict[str, Any]:
        # Messages are stored without the path, because the packed file may be read from another
        # path.
        prefix = f"{coco.path}: "
        problems = [asdict(problem) for problem in coco.problems]
        for problem in problems:
            problem["message"] = problem["message"].removeprefix(prefix)
        return {
            "version": VERSION,
            "source": self._source.digest,
            "declared": self._source.annotated,
            "annotated": sorted(coco.annotated),
            "categories": coco.categories.to_json(),
            "problems": problems,
            "info": coco.info,
        }

    def _open(self, cache_path: Path, images_root: str | Path | None) -> CocoFile | None:
        try:
            columns = open_columns(cache_path)
        except DataError as error:
            raise _DamagedCache(str(error).removeprefix(f"{cache_path} ")) from None
        metadata, source = columns.metadata, self._source
        expected = {"version": VERSION, "source": source.digest, "declared": source.annotated}
        if any(metadata.get(key) != value for key, value in expected.items()):
            return None
        try:
            categories = CategoryMap.from_json(metadata["categories"])
            prefix = f"{source.path}: "
            problems = tuple(
                Problem(**{**problem, "message": prefix + problem["message"]})
                for problem in metadata["problems"]
            )
            annotated, info = frozenset(map(str, metadata["annotated"])), dict(metadata["info"])
            images, annotations = _build_records(columns, len(categories))
        except (DataError, LookupError, TypeError, ValueError) as error:
            raise _DamagedCache(f"has unexpected contents ({error})") from None
        root = resolve_image_folder(source.path, info, images_root)
        return CocoFile(
            source.path, root, categories, images, annotations, annotated, problems, info
        )


class _DamagedCache(Exception):  # noqa: N818 - not a user error
    """Damaged packed file."""


def open_cache(path: Path, annotated: Iterable[str] | None) -> CocoCache | None:
    """Return the cache of a COCO file, or None if the file is small or does not exist."""
    try:
        return CocoCache(path, annotated) if path.stat().st_size >= CACHE_FROM else None
    except OSError:
        return None  # the code that reads the file reports the error


def _read_file_state(path: Path) -> tuple[int, int]:
    file_stat = path.stat()
    return (file_stat.st_size, file_stat.st_mtime_ns)


def _build_records(
    columns: MappedColumns, num_categories: int
) -> tuple[PackedImages, PackedAnnotations]:
    """Return the records of the columns after checking that the columns are consistent.

    Raises:
        ValueError: If they are inconsistent.
    """
    num_images, num_annotations = len(columns["image.size"]), len(columns["annotation.area"])
    num_polygons = len(columns["polygon.starts"]) - 1
    for name, number, end in (
        ("image.file_name.starts", num_images, len(columns["image.file_name.bytes"])),
        ("image.rest.starts", num_images, len(columns["image.rest.bytes"])),
        ("annotation.starts", num_images, num_annotations),
        ("annotation.runs.starts", num_annotations, len(columns["annotation.runs.bytes"])),
        ("annotation.polygons", num_annotations, num_polygons),
        ("polygon.starts", num_polygons, len(columns["polygon.points"])),
    ):
        _require_bounds(name, columns[name], number, end)
    lengths = {
        "image": (num_images, ("image.places", "image.order")),
        "annotation": (
            num_annotations,
            tuple(
                f"annotation.{column}"
                for column in ("category", "bbox", "crowd", "kind", "occluded", "truncated")
            ),
        ),
    }
    for number, names in lengths.values():
        for name in names:
            if len(columns[name]) != number:
                raise ValueError(f"{name} has {len(columns[name])} entries, not {number}")
    category_indices, order = columns["annotation.category"], columns["image.order"]
    if (
        num_annotations
        and not 0 <= int(category_indices.min()) <= int(category_indices.max()) < num_categories
    ):
        raise ValueError("an annotation has an unknown category")
    if num_images and not 0 <= int(order.min()) <= int(order.max()) < num_images:
        raise ValueError("the order of the images has an unknown position")
    images = PackedImages(columns)
    semantic = [
        str(optional_fields["semantic"])
        for _, optional_fields in images.iter_optional_fields()
        if "semantic" in optional_fields
    ]
    # The packed file is not trusted, so its file names are checked as those of the JSON file are.
    _require_inside([*map(images.get_file_name, range(num_images)), *semantic])
    return images, PackedAnnotations(columns, images)


def _require_bounds(name: str, bounds: NDArray[np.int64], number: int, end: int) -> None:
    is_sound = (
        bounds.shape == (number + 1,)
        and bounds[0] == 0
        and bounds[-1] == end
        and bool((np.diff(bounds) >= 0).all())
    )
    if not is_sound:
        raise ValueError(f"the offsets in {name} are inconsistent")


def _require_inside(names: Sequence[str]) -> None:
    for name in names:
        if not is_inside(name):
            raise ValueError(f"{name!r} points outside the image folder")
