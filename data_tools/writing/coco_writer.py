"""Writes the one format inside: COCO JSON, and semantic label maps as PNGs whose values are ids.

A folder with the splits `train` and `val` looks like this:

    train.json, val.json             one COCO file per split
    semantic/train/NAME.png          where a converter has pixel labels; values are category ids
    images/train/NAME.jpg            where images were copied or made; otherwise they stay put

Categories are numbered from 1; 0 is unlabeled and 255 (65535 in 16 bit) is void. `file_name` is
relative to `info["images_root"]` where the file has one (images that stayed where they were),
otherwise to the folder of the JSON. `sem_seg_file_name` is always relative to the folder of the
JSON.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.reading.image_io import measure_image_size, write_image
from data_tools.writing.coco_shapes import (
    Shape,
    shape_from_box,
    shape_from_mask,
    shape_from_polygons,
)
from data_tools.writing.split_summary import SkippedObject, SplitSummary
from data_tools.writing.text_spool import TextSpool
from resnet_tasks.errors import DataError
from resnet_tasks.files.safe_names import require_class_names

Annotated = Literal["boxes", "masks", "semantic", "image"]

MAX_8BIT_CATEGORIES = 254


@dataclass(frozen=True)
class CategorySpec:
    """One class of a data set.

    Attributes:
        name: What it is called in files and reports.
        isthing: Whether it comes in countable objects (COCO panoptic's term).
    """

    name: str
    isthing: bool = True


class CocoWriter:
    """Takes one split record by record and writes it; the JSON appears only when complete.

    Annotations go to disk as they come, so that their number costs no memory.

    Args:
        folder: Where the JSON goes; made when absent.
        split: `train`, `val` or `test`; the name of the JSON.
        categories: Classes in order; the first gets id 1.
        annotated: What the source annotates, so that an empty image can be told from one that
            nobody looked at.
        images_root: Folder that image names are relative to; `None` where the images are made
            or already lie inside `folder`.
        copy_images: Copy the images to `folder/images/SPLIT` instead of referring to them.
        description: One line for `info`.
        license_name: License of the source data.

    Raises:
        DataError: If the JSON is already there, or category names repeat or cannot be printed.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        categories: Sequence[CategorySpec],
        *,
        annotated: Sequence[Annotated],
        images_root: Path | None = None,
        copy_images: bool = False,
        description: str = "",
        license_name: str = "",
    ) -> None:
        self.file = folder / f"{split}.json"
        if self.file.exists():
            raise DataError(f"{self.file} is already there; choose another output folder")
        names = [category.name for category in categories]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated or not names:
            raise DataError(
                f"the categories of {self.file} are {names}; give at least one and each name once"
            )
        require_class_names(names, str(self.file))
        self.split = split
        self.folder = folder
        self.images_root = _make_absolute(folder if images_root is None else images_root)
        self.copy_images = copy_images
        self._ids = {name: index for index, name in enumerate(names, start=1)}
        self._names = names
        self._images: list[dict[str, Any]] = []
        self._image_paths: dict[Path, None] = {}
        self._annotations = TextSpool(folder)
        self._objects = [0] * len(names)
        self._outlines = 0
        self._skipped: list[SkippedObject] = []
        self._notes: list[str] = []
        self._pixels = np.zeros(len(names) + 1, dtype=np.int64)
        self._info: dict[str, Any] = {"description": description, "annotated": list(annotated)}
        if images_root is not None and not copy_images:
            self._info["images_root"] = self.images_root.as_posix()
        self._licenses = [{"id": 1, "name": license_name}] if license_name else []
        self._categories = [
            {
                "id": self._ids[category.name],
                "name": category.name,
                "isthing": int(category.isthing),
            }
            for category in categories
        ]

    @property
    def void(self) -> int:
        """Value of void pixels in the semantic PNGs."""
        return choose_void_value(len(self._names))

    def add_image(
        self,
        image: Path,
        *,
        size: tuple[int, int] | None = None,
        group: str | None = None,
        spacing: tuple[float, float] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> int:
        """Adds an image and returns its id.

        Args:
            image: The file, inside the images root.
            size: (height, width); read from the file when absent.
            group: Patient, study or sequence that splits must not cut through.
            spacing: (y, x) millimeters per pixel.
            attributes: What else is known of the image; kept under that key.

        Raises:
            DataError: If the file cannot be read, lies outside the images root, or comes twice.
        """
        if (absolute_path := _make_absolute(image)) in self._image_paths:
            raise DataError(
                f"{self.split} has the image {image} twice, so that its objects would be "
                "missed in one of the two; bring all its objects under one entry"
            )
        self._image_paths[absolute_path] = None
        height, width = size or measure_image_size(image)
        name = self._resolve_file_name(image)
        image_id = len(self._images) + 1
        record: dict[str, Any] = {
            "id": image_id,
            "file_name": name,
            "height": height,
            "width": width,
        }
        if group is not None:
            record["group"] = group
        if spacing is not None:
            record["spacing"] = list(spacing)
        if attributes:
            record["attributes"] = dict(attributes)
        self._images.append(record)
        return image_id

    def add_label(self, image_id: int, category: str) -> None:
        """Adds a label of the whole image: an annotation without a box.

        Args:
            image_id: What `add_image` returned.
            category: Name of the class.

        Raises:
            DataError: If the class is unknown.
        """
        category_id = self._get_category_id(image_id, category)
        self._write_annotation({"image_id": image_id, "category_id": category_id})

    def add_box(
        self,
        image_id: int,
        category: str,
        box: Sequence[float],
        *,
        iscrowd: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds an object that has a box and nothing finer.

        Args:
            image_id: What `add_image` returned.
            category: Name of the class.
            box: (x, y, width, height) in pixels of the image.
            iscrowd: Neither taught nor judged.
            attributes: What else is known of the object; kept under that key.

        Raises:
            DataError: If the box has no area or the class is unknown.
        """
        self._add_object(image_id, category, shape_from_box(box), iscrowd, attributes)

    def add_mask(
        self,
        image_id: int,
        category: str,
        mask: NDArray[np.bool_],
        *,
        polygons: Sequence[Sequence[float]] | None = None,
        iscrowd: bool = False,
        attributes: Mapping[str, Any] | None = None,
        box: Sequence[float] | None = None,
    ) -> None:
        """Adds an object by its pixels.

        Args:
            image_id: What `add_image` returned.
            category: Name of the class.
            mask: `(height, width)` of the visible pixels.
            polygons: Flat `[x0, y0, x1, y1, ...]` lists to store instead of run lengths.
            iscrowd: Neither taught nor judged.
            attributes: What else is known of the object; kept under that key.
            box: (x, y, width, height) as annotated; default: the tight one around the pixels.

        Raises:
            DataError: If the mask is empty or its size is not the image's.
        """
        record = self._images[image_id - 1]
        if mask.shape != (record["height"], record["width"]):
            raise DataError(
                f"a mask of {record['file_name']} has size {mask.shape} (height, width), the "
                f"image {(record['height'], record['width'])}; both must agree"
            )
        shape = shape_from_mask(mask, polygons=polygons, box=box)
        self._add_object(image_id, category, shape, iscrowd, attributes)

    def add_polygons(
        self,
        image_id: int,
        category: str,
        polygons: Sequence[Sequence[float]],
        *,
        iscrowd: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> bool:
        """Adds an object by its outlines; the box is the tight one around what the image shows.

        Args:
            image_id: What `add_image` returned.
            category: Name of the class.
            polygons: Flat `[x0, y0, x1, y1, ...]` lists in pixels of the image; several are parts
                of one object.
            iscrowd: Neither taught nor judged.
            attributes: What else is known of the object; kept under that key.

        Returns:
            Whether they cover any pixel; where they do not, nothing is added.

        Raises:
            DataError: If a polygon has fewer than three points or one that is far outside, or the
                class is unknown.
        """
        record = self._images[image_id - 1]
        description = f"a {category} of {record['file_name']}"
        shape = shape_from_polygons(polygons, self.get_image_size(image_id), description)
        if shape is not None:
            self._add_object(image_id, category, shape, iscrowd, attributes)
        return shape is not None

    def add_semantic(self, image_id: int, ids: NDArray[np.integer[Any]]) -> None:
        """Writes the label map of an image.

        Args:
            image_id: What `add_image` returned.
            ids: `(height, width)` category ids, 0 where unlabeled, `void` where void.

        Raises:
            DataError: If the size is not the image's or a value is no category.
        """
        record = self._images[image_id - 1]
        if ids.shape != (record["height"], record["width"]):
            raise DataError(
                f"the label map of {record['file_name']} has size {ids.shape} (height, width), the "
                f"image {(record['height'], record['width'])}; both must agree"
            )
        counts = np.bincount(ids.ravel(), minlength=self.void + 1)
        unknown = [int(v) for v in np.flatnonzero(counts) if len(self._names) < v != self.void]
        if unknown:
            raise DataError(
                f"the label map of {record['file_name']} holds {unknown}; allowed are 0 to "
                f"{len(self._names)} and {self.void} for void"
            )
        self._pixels += counts[: len(self._names) + 1]
        # Not `with_suffix`, which would take the end of `1.2.840` for one.
        name = Path("semantic", self.split, f"{Path(record['file_name']).stem}.png")
        if (self.folder / name).exists():
            name = name.with_name(f"{name.stem}_{image_id}.png")
        write_image(self.folder / name, ids.astype(np.uint8 if self.void == 255 else np.uint16))
        record["sem_seg_file_name"] = name.as_posix()

    def declare_annotated(self, *kinds: Annotated) -> None:
        """Replaces what the source annotates, where that is known only once it is read."""
        self._info["annotated"] = list(kinds)

    def declare_outlines(self) -> None:
        """States boxes and masks where every object has an outline, and leaves the rest as it is.

        An object that has only a box would be taught as one without pixels.
        """
        if 0 < self._outlines == self._annotations.count:
            self.declare_annotated("boxes", "masks")

    def skip(self, file: Path | str, description: str, reason: str) -> None:
        """Counts an object that is left out."""
        self._skipped.append(SkippedObject(str(file), description, reason))

    def get_image_size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image that was added."""
        record = self._images[image_id - 1]
        return record["height"], record["width"]

    def add_note(self, text: str) -> None:
        """Adds a sentence for the data card."""
        self._notes.append(text)

    def write(self) -> SplitSummary:
        """Writes the JSON under a temporary name, renames it, and returns what it holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.partial")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(f'{{"info": {json.dumps(self._info)}, ')
            stream.write(f'"licenses": {json.dumps(self._licenses)}, "images": [')
            for number, record in enumerate(self._images):
                stream.write(f"{', ' if number else ''}{json.dumps(record)}")
            stream.write('], "annotations": [')
            self._annotations.copy_to(stream)
            stream.write(f'], "categories": {json.dumps(self._categories)}}}')
        temporary.replace(self.file)
        return self.summarize()

    def summarize(self) -> SplitSummary:
        """Counts of what was added so far."""
        objects = dict(zip(self._names, self._objects, strict=True))
        has_maps = any("sem_seg_file_name" in record for record in self._images)
        pixels = dict(zip(self._names, map(int, self._pixels[1:]), strict=True)) if has_maps else {}
        skipped, notes = tuple(self._skipped), tuple(self._notes)
        return SplitSummary(
            self.split,
            len(self._images),
            objects,
            pixels,
            skipped,
            notes=notes,
            image_paths=frozenset(self._image_paths),
        )

    def _resolve_file_name(self, image: Path) -> str:
        absolute = _make_absolute(image)
        try:
            str(absolute).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"the image {str(image)!r} has a name that is no UTF-8, which JSON cannot "
                "hold; rename the file"
            ) from None
        if not absolute.is_relative_to(self.images_root):
            raise DataError(f"{image} does not lie inside {self.images_root}, the images root")
        name = absolute.relative_to(self.images_root)
        return self._copy_image(image, name) if self.copy_images else name.as_posix()

    def _copy_image(self, image: Path, name: Path) -> str:
        target = Path("images", self.split, name)
        (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(image, self.folder / target)
        except FileNotFoundError:
            raise DataError(f"the image {image} was there and is missing now") from None
        return target.as_posix()

    def _add_object(
        self,
        image_id: int,
        category: str,
        shape: Shape,
        iscrowd: bool,
        attributes: Mapping[str, Any] | None,
    ) -> None:
        category_id = self._get_category_id(image_id, category)
        name = self._images[image_id - 1]["file_name"]
        if shape.is_empty:
            raise DataError(
                f"a {category} of {name} has no area (x, y, width, height = {shape.box})"
            )
        annotation = {
            "image_id": image_id,
            "category_id": category_id,
            **shape.to_fields(),
            "iscrowd": int(iscrowd),
        }
        if shape.segmentation is not None:
            annotation["segmentation"] = shape.segmentation
        if attributes:
            annotation["attributes"] = dict(attributes)
        self._outlines += shape.segmentation is not None
        self._write_annotation(annotation)

    def _write_annotation(self, annotation: Mapping[str, Any]) -> None:
        self._objects[annotation["category_id"] - 1] += 1
        self._annotations.add(json.dumps({"id": self._annotations.count + 1, **annotation}))

    def _get_category_id(self, image_id: int, category: str) -> int:
        if category not in self._ids:
            name = self._images[image_id - 1]["file_name"]
            raise DataError(
                f"an object of {name} is a {category!r}; the classes are {', '.join(self._names)}"
            )
        return self._ids[category]


def choose_void_value(num_categories: int) -> int:
    """Value of void pixels in semantic PNGs: the largest that 8 bits hold, else 16."""
    return 255 if num_categories <= MAX_8BIT_CATEGORIES else 65535


def _make_absolute(path: Path) -> Path:
    """The path from the root, links kept: a linked image still lies where it is named."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib's own way follows links
