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

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco_file import CocoFile
from resnet_tasks.data.coco_packing import PackedAnnotations, PackedImages
from resnet_tasks.data.coco_parsing import is_inside, picture_folder
from resnet_tasks.data.coco_problems import Problem
from resnet_tasks.data.mapped_columns import MappedColumns, open_columns, write_columns
from resnet_tasks.errors import DataError

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


class PackedForm:
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
        self._source = _Source(path, digest.hexdigest(), _state(path), declared)
        kind = "" if declared is None else f".{'+'.join(declared)}"
        name = f"{path.name}{kind}.packed.safetensors"
        elsewhere = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        chosen = os.environ.get(CACHE_FOLDER)
        apart = Path(chosen) if chosen else elsewhere / "resnet-tasks" / "annotations"
        self._places = [apart / f"{self._source.digest}-{name}"]
        if not chosen:
            self._places.insert(0, path.with_name(name))
        self._trouble = ""

    def read(self, images_root: str | Path | None) -> CocoFile | None:
        """The file, where an earlier reading kept it; None where it must be read.

        Raises:
            DataError: If `images_root` is not there.
        """
        for place in self._places:
            try:
                coco = self._opened(place, images_root)
            except OSError:
                continue
            except _Unusable as error:
                self._trouble = f"{place} {error}, and was made anew; "
                continue
            if coco is not None:
                seconds = monotonic() - self._started
                coco.note = f"opened in {seconds:.1f} s from {place}"
                return coco
        return None

    def keep(self, coco: CocoFile, images_root: str | Path | None) -> CocoFile:
        """Writes the packed form of what was read; the same file, from there."""
        seconds = monotonic() - self._started
        coco.note = f"{self._trouble}read in {seconds:.1f} s"
        if _state(self._source.path) != self._source.state:
            return coco  # written to in the meantime
        refusals = []
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                _sweep(place)
                columns = {**coco.images.columns, **coco.annotations.columns}
                write_columns(place, columns, self._about(coco))
                made = self._opened(place, images_root)
            except OSError as error:
                refusals.append(f"{place.parent}: {error.strerror or error}")
                continue
            assert made is not None
            made.note = f"{coco.note}; kept packed in {place} for the next time"
            return made
        coco.note += (
            f"; it could not be kept packed for the next time ({'; '.join(refusals)}): name a "
            f"folder with ${CACHE_FOLDER}"
        )
        return coco

    def _about(self, coco: CocoFile) -> dict[str, Any]:
        prefix = f"{coco.path}: "
        problems = [asdict(each) for each in coco.problems]
        for each in problems:
            each["message"] = each["message"].removeprefix(prefix)
        return {
            "version": VERSION,
            "source": self._source.digest,
            "declared": self._source.annotated,
            "annotated": sorted(coco.annotated),
            "categories": coco.categories.to_json(),
            "problems": problems,
            "info": coco.info,
        }

    def _opened(self, place: Path, images_root: str | Path | None) -> CocoFile | None:
        try:
            columns = open_columns(place)
        except DataError as error:
            raise _Unusable(str(error).removeprefix(f"{place} ")) from None
        about, source = columns.about, self._source
        wanted = {"version": VERSION, "source": source.digest, "declared": source.annotated}
        if any(about.get(key) != value for key, value in wanted.items()):
            return None
        try:
            categories = CategoryMap.from_json(about["categories"])
            prefix = f"{source.path}: "
            problems = tuple(
                Problem(**{**each, "message": prefix + each["message"]})
                for each in about["problems"]
            )
            annotated, info = frozenset(map(str, about["annotated"])), dict(about["info"])
            images, annotations = _sound(columns, len(categories))
        except (DataError, LookupError, TypeError, ValueError) as error:
            raise _Unusable(f"is not what was written ({error})") from None
        root = picture_folder(source.path, info, images_root)
        return CocoFile(
            source.path, root, categories, images, annotations, annotated, problems, info
        )


class _Unusable(Exception):  # noqa: N818 - not an error of the user's
    """A packed form that is damaged."""


def packed_form(path: Path, annotated: Iterable[str] | None) -> PackedForm | None:
    """Where the packed form of a file is kept; None for a file that is small, or not there."""
    try:
        return PackedForm(path, annotated) if path.stat().st_size >= CACHE_FROM else None
    except OSError:
        return None  # whoever reads it says so


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return (found.st_size, found.st_mtime_ns)


def _sweep(place: Path) -> None:
    """Removes what killed processes left half-written."""
    for left in place.parent.glob(f"{place.name}.partial-*"):
        if left.stat().st_mtime < time() - _STALE:
            left.unlink(missing_ok=True)


def _sound(columns: MappedColumns, categories: int) -> tuple[PackedImages, PackedAnnotations]:
    """The records of columns that fit together.

    Raises:
        ValueError: If they do not.
    """
    pictures, objects = len(columns["image.size"]), len(columns["annotation.area"])
    polygons = len(columns["polygon.starts"]) - 1
    for name, number, end in (
        ("image.file_name.starts", pictures, len(columns["image.file_name.bytes"])),
        ("image.rest.starts", pictures, len(columns["image.rest.bytes"])),
        ("annotation.starts", pictures, objects),
        ("annotation.runs.starts", objects, len(columns["annotation.runs.bytes"])),
        ("annotation.polygons", objects, polygons),
        ("polygon.starts", polygons, len(columns["polygon.points"])),
    ):
        _require_bounds(name, columns[name], number, end)
    lengths = {
        "image": (pictures, ("image.places", "image.order")),
        "annotation": (
            objects,
            tuple(
                f"annotation.{each}"
                for each in ("category", "bbox", "crowd", "kind", "occluded", "truncated")
            ),
        ),
    }
    for number, names in lengths.values():
        for name in names:
            if len(columns[name]) != number:
                raise ValueError(f"{name} has {len(columns[name])} entries, not {number}")
    chosen, order = columns["annotation.category"], columns["image.order"]
    if objects and not 0 <= int(chosen.min()) <= int(chosen.max()) < categories:
        raise ValueError("a category is unknown")
    if pictures and not 0 <= int(order.min()) <= int(order.max()) < pictures:
        raise ValueError("a picture is unknown")
    images = PackedImages(columns)
    semantic = [str(rest["semantic"]) for rest in images.rest() if "semantic" in rest]
    _require_inside([*map(images.file_name, range(pictures)), *semantic])
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


__all__ = ["CACHE_FOLDER", "CACHE_FROM", "PackedForm", "packed_form"]
