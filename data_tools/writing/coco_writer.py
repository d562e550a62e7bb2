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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.writing.coco_annotations import CocoAnnotations
from data_tools.writing.coco_images import CocoImages
from data_tools.writing.coco_shapes import (
    shape_from_box,
    shape_from_mask,
    shape_from_polygons,
)
from data_tools.writing.semantic_maps import SemanticMaps
from data_tools.writing.split_summary import SkippedObject, SplitSummary
from resnet_tasks.errors import DataError
from resnet_tasks.files.safe_names import require_class_names

Annotated = Literal["boxes", "masks", "semantic", "image"]


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
        self._names = names
        self._images = CocoImages(folder, split, root=images_root, copy_images=copy_images)
        self._annotations = CocoAnnotations(folder, names)
        self._skipped: list[SkippedObject] = []
        self._notes: list[str] = []
        self._semantic_maps = SemanticMaps(folder, split, num_categories=len(names))
        self._info: dict[str, Any] = {"description": description, "annotated": list(annotated)}
        if images_root is not None and not copy_images:
            self._info["images_root"] = self._images.root.as_posix()
        self._licenses = [{"id": 1, "name": license_name}] if license_name else []
        self._categories = [
            {
                "id": self._annotations.category_ids[category.name],
                "name": category.name,
                "isthing": int(category.isthing),
            }
            for category in categories
        ]

    @property
    def void(self) -> int:
        """Value of void pixels in the semantic PNGs."""
        return self._semantic_maps.void

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
        return self._images.add(
            image, size=size, group=group, spacing=spacing, attributes=attributes
        )

    def add_label(self, image_id: int, category: str) -> None:
        """Adds a label of the whole image: an annotation without a box.

        Args:
            image_id: What `add_image` returned.
            category: Name of the class.

        Raises:
            DataError: If the class is unknown.
        """
        self._annotations.add_label(self._images.get_record(image_id), category)

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
        record, shape = self._images.get_record(image_id), shape_from_box(box)
        self._annotations.add_object(
            record, category, shape, iscrowd=iscrowd, attributes=attributes
        )

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
        record = self._images.get_record(image_id)
        if mask.shape != (record["height"], record["width"]):
            raise DataError(
                f"a mask of {record['file_name']} has size {mask.shape} (height, width), the "
                f"image {(record['height'], record['width'])}; both must agree"
            )
        shape = shape_from_mask(mask, polygons=polygons, box=box)
        self._annotations.add_object(
            record, category, shape, iscrowd=iscrowd, attributes=attributes
        )

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
        record = self._images.get_record(image_id)
        description = f"a {category} of {record['file_name']}"
        shape = shape_from_polygons(polygons, self.get_image_size(image_id), description)
        if shape is not None:
            self._annotations.add_object(
                record, category, shape, iscrowd=iscrowd, attributes=attributes
            )
        return shape is not None

    def add_semantic(self, image_id: int, ids: NDArray[np.integer[Any]]) -> None:
        """Writes the label map of an image.

        Args:
            image_id: What `add_image` returned.
            ids: `(height, width)` category ids, 0 where unlabeled, `void` where void.

        Raises:
            DataError: If the size is not the image's or a value is no category.
        """
        record = self._images.get_record(image_id)
        record["sem_seg_file_name"] = self._semantic_maps.write(record, ids)

    def declare_annotated(self, *kinds: Annotated) -> None:
        """Replaces what the source annotates, where that is known only once it is read."""
        self._info["annotated"] = list(kinds)

    def declare_outlines(self) -> None:
        """States boxes and masks where every object has an outline, and leaves the rest as it is.

        An object that has only a box would be taught as one without pixels.
        """
        if self._annotations.all_have_outlines:
            self.declare_annotated("boxes", "masks")

    def skip(self, file: Path | str, description: str, reason: str) -> None:
        """Counts an object that is left out."""
        self._skipped.append(SkippedObject(str(file), description, reason))

    def get_image_size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image that was added."""
        record = self._images.get_record(image_id)
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
            for number, record in enumerate(self._images.records):
                stream.write(f"{', ' if number else ''}{json.dumps(record)}")
            stream.write('], "annotations": [')
            self._annotations.copy_to(stream)
            stream.write(f'], "categories": {json.dumps(self._categories)}}}')
        temporary.replace(self.file)
        return self.summarize()

    def summarize(self) -> SplitSummary:
        """Counts of what was added so far."""
        objects = dict(zip(self._names, self._annotations.counts, strict=True))
        has_maps = any("sem_seg_file_name" in record for record in self._images.records)
        pixels = (
            dict(zip(self._names, map(int, self._semantic_maps.pixels[1:]), strict=True))
            if has_maps
            else {}
        )
        skipped, notes = tuple(self._skipped), tuple(self._notes)
        return SplitSummary(
            self.split,
            len(self._images.records),
            objects,
            pixels,
            skipped,
            notes=notes,
            image_paths=frozenset(self._images.paths),
        )
