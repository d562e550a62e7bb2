"""Big COCO files kept in packed form, so that the next reading takes a second.

The packed form lies beside the JSON, or, where that folder cannot be written to, in a folder of its
own. It holds for exactly the bytes that it was made of: at every reading their hash is compared,
and the version of the form. It is safetensors and JSON, and no more trusted than the file itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, time
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
"""Bytes from which on a JSON is worth a packed form: some seconds of reading."""
CACHE_FOLDER = "RESNET_TASKS_CACHE"
"""Environment variable: the folder for packed forms that shall not lie beside their files."""
VERSION = 1
"""Of the form; another one is made anew."""
_STALE = 86_400
"""Seconds after which half-written forms are swept away."""


@dataclass(frozen=True)
class _Source:
    """The bytes that a packed form is made of, and how they are read."""

    path: Path
    digest: str
    state: tuple[int, int]
    annotated: list[str] | None


class CocoCache:
    """The packed form of one big file, which may not be there yet.

    Args:
        path: The JSON.
        annotated: As in `read_coco`.
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
        """The file, where an earlier reading kept it; None where it must be read.

        Raises:
            DataError: If `images_root` is not there.
        """
        for cache_path in self._paths:
            try:
                coco = self._open(cache_path, images_root)
            except OSError:
                continue
            except _DamagedCache as error:
                self._warning = f"{cache_path} {error}, and was made anew; "
                continue
            if coco is not None:
                seconds = monotonic() - self._started
                coco.note = f"opened in {seconds:.1f} s from {cache_path}"
                return coco
        return None

    def store(self, coco: CocoFile, images_root: str | Path | None) -> CocoFile:
        """Writes the packed form of what was read; the same file, from there."""
        seconds = monotonic() - self._started
        coco.note = f"{self._warning}read in {seconds:.1f} s"
        if _read_file_state(self._source.path) != self._source.state:
            return coco  # written to in the meantime
        refusals = []
        for cache_path in self._paths:
            try:
                cache_path.parent.mkdir(parents=True, exist_ok=True)
                _remove_stale_files(cache_path)
                columns = {**coco.images.columns, **coco.annotations.columns}
                write_columns(cache_path, columns, self._build_metadata(coco))
                cached = self._open(cache_path, images_root)
            except OSError as error:
                refusals.append(f"{cache_path.parent}: {error.strerror or error}")
                continue
            assert cached is not None
            cached.note = f"{coco.note}; kept packed in {cache_path} for the next time"
            return cached
        coco.note += (
            f"; it could not be kept packed for the next time ({'; '.join(refusals)}): name a "
            f"folder with ${CACHE_FOLDER}"
        )
        return coco

    def _build_metadata(self, coco: CocoFile) -> dict[str, Any]:
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
            raise _DamagedCache(f"is not what was written ({error})") from None
        root = resolve_image_folder(source.path, info, images_root)
        return CocoFile(
            source.path, root, categories, images, annotations, annotated, problems, info
        )


class _DamagedCache(Exception):  # noqa: N818 - not an error of the user's
    """A packed form that is damaged."""


def open_cache(path: Path, annotated: Iterable[str] | None) -> CocoCache | None:
    """Where the packed form of a file is kept; None for a file that is small, or not there."""
    try:
        return CocoCache(path, annotated) if path.stat().st_size >= CACHE_FROM else None
    except OSError:
        return None  # whoever reads it says so


def _read_file_state(path: Path) -> tuple[int, int]:
    file_stat = path.stat()
    return (file_stat.st_size, file_stat.st_mtime_ns)


def _remove_stale_files(cache_path: Path) -> None:
    """Removes what killed processes left half-written."""
    for stale_path in cache_path.parent.glob(f"{cache_path.name}.partial-*"):
        if stale_path.stat().st_mtime < time() - _STALE:
            stale_path.unlink(missing_ok=True)


def _build_records(
    columns: MappedColumns, num_categories: int
) -> tuple[PackedImages, PackedAnnotations]:
    """The records of columns that fit together.

    Raises:
        ValueError: If they do not.
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
        raise ValueError("a category is unknown")
    if num_images and not 0 <= int(order.min()) <= int(order.max()) < num_images:
        raise ValueError("an image is unknown")
    images = PackedImages(columns)
    semantic = [
        str(optional_fields["semantic"])
        for optional_fields in images.iter_optional_fields()
        if "semantic" in optional_fields
    ]
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
        raise ValueError(f"{name} does not fit")


def _require_inside(names: Sequence[str]) -> None:
    for name in names:
        if not is_inside(name):
            raise ValueError(f"{name!r} leads out of the folder")
