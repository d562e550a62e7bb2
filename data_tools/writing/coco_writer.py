"""Writer of the internal format: COCO JSON, and semantic label maps as PNGs of category ids.

A folder with the splits `train` and `val` looks like this:

    train.json, val.json             one COCO file per split
    semantic/train/NAME.png          label maps, if the source has them; values are category ids
    images/train/NAME.jpg            images that were copied or created; others stay in place

Category ids count from 1; 0 is unlabeled and 255 (65535 in 16 bit) is void. `file_name` is relative
to `info["images_root"]` if the file states it (images that stayed in place), otherwise to the
folder of the JSON. `sem_seg_file_name` is always relative to the folder of the JSON.
"""

from __future__ import annotations

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
from data_tools.writing.conversion_report import ConversionReport
from data_tools.writing.semantic_maps import SemanticMaps
from data_tools.writing.split_summary import SplitSummary, describe_ignored_classes
from resnet_tasks.data.coco.box_formats import BoxFormatCounter
from resnet_tasks.errors import DataError, format_list
from resnet_tasks.files.atomic import open_atomic
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.files.safe_names import require_class_names

Annotated = Literal["boxes", "masks", "semantic", "image"]

_REPLACE_FRACTIONS = (
    "if their coordinates are fractions of the image size, replace them by pixels in the source"
)


@dataclass(frozen=True)
class CategorySpec:
    """One class of a dataset.

    Attributes:
        name: Name of the class in files and reports.
        isthing: Whether the class consists of countable objects (COCO panoptic's term).
    """

    name: str
    isthing: bool = True


class CocoWriter:
    """Writer of one split, record by record; the JSON appears only when complete.

    Annotations go to disk as they are added, so that memory does not grow with their number.

    Args:
        folder: Folder of the JSON; created if it is missing.
        split: Name of the split and of the JSON: `train`, `val` or `test`.
        categories: Classes in order; the first gets id 1.
        annotated: Kinds of annotation of the source. They distinguish an image without objects from
            an image that was never annotated.
        images_root: Folder that image names are relative to; None if the images are created by the
            converter or already lie inside `folder`.
        copy_images: Whether to copy the images to `folder/images/SPLIT` instead of referring to
            them.
        description: One-line description for `info`.
        license_name: License of the source data.

    Attributes:
        report: Skipped, changed and repaired parts of the source, notes and warnings.

    Raises:
        DataError: If the JSON already exists, or category names repeat or cannot be printed.
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
            raise DataError(f"{self.file} already exists; choose another output folder")
        names = [category.name for category in categories]
        if not names:
            raise DataError(
                "the source has no object, so there are no classes; set the option classes"
            )
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"the classes include {format_list(map(repr, repeated))} more than once; give each "
                "class its own name"
            )
        require_class_names(names, str(self.file))
        self.split = split
        self.folder = folder
        self._names = names
        self._images = CocoImages(folder, split, root=images_root, copy_images=copy_images)
        self._annotations = CocoAnnotations(folder, names)
        self.report = ConversionReport()
        self._box_formats = BoxFormatCounter()
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
        """Add an image and return its id.

        Args:
            image: Path of the image, inside the images root.
            size: (height, width) in pixels; default: read from the file.
            group: Patient, study or sequence that splits must keep together.
            spacing: (y, x) millimeters per pixel.
            attributes: Additional attributes of the image, stored under the key `attributes`.

        Raises:
            DataError: If the file cannot be read, lies outside the images root, or was already
                added.
        """
        if spacing is not None:
            self.report.add_pixel_aspect(spacing[0] / spacing[1])
        return self._images.add(
            image, size=size, group=group, spacing=spacing, attributes=attributes
        )

    def add_label(self, image_id: int, category: str) -> None:
        """Add an image-level label: an annotation without a box.

        Args:
            image_id: Id that `add_image` returned.
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
        """Add an object that has a box but no outline.

        Args:
            image_id: Id that `add_image` returned.
            category: Name of the class.
            box: (x, y, width, height) in pixels of the image.
            iscrowd: Whether training and evaluation ignore the object.
            attributes: Additional attributes of the object, stored under the key `attributes`.

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
        """Add an object by its pixels.

        Args:
            image_id: Id that `add_image` returned.
            category: Name of the class.
            mask: (height, width) bool, visible pixels of the object.
            polygons: Flat `[x0, y0, x1, y1, ...]` lists to store instead of run lengths.
            iscrowd: Whether training and evaluation ignore the object.
            attributes: Additional attributes of the object, stored under the key `attributes`.
            box: (x, y, width, height) as annotated; default: the tight box around the pixels.

        Raises:
            DataError: If the mask is empty, its size differs from that of the image, or the class
                is unknown.
        """
        record = self._images.get_record(image_id)
        if mask.shape != (record["height"], record["width"]):
            raise DataError(
                f"a mask of {record['file_name']} has size {mask.shape} (height, width), but the "
                f"image has {(record['height'], record['width'])}; both must agree"
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
        """Add an object by its outlines; the box is the tight box around its visible part.

        Args:
            image_id: Id that `add_image` returned.
            category: Name of the class.
            polygons: Flat `[x0, y0, x1, y1, ...]` lists in pixels of the image; several are parts
                of one object.
            iscrowd: Whether training and evaluation ignore the object.
            attributes: Additional attributes of the object, stored under the key `attributes`.

        Returns:
            Whether the polygons cover any pixel; if not, nothing is added.

        Raises:
            DataError: If a polygon has fewer than three points or a point far outside the image, or
                the class is unknown.
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
        """Write the label map of an image.

        Args:
            image_id: Id that `add_image` returned.
            ids: (height, width) category ids; 0 is unlabeled, `void` is void.

        Raises:
            DataError: If the size differs from that of the image, or a value is not a category id.
        """
        record = self._images.get_record(image_id)
        record["sem_seg_file_name"] = self._semantic_maps.write(record, ids)

    def declare_annotated(self, *kinds: Annotated) -> None:
        """Replace the kinds of annotation, for sources whose kinds are known only after reading."""
        self._info["annotated"] = list(kinds)

    def declare_outlines(self) -> None:
        """Declare boxes and masks as annotated if every object has an outline.

        Otherwise the declaration does not change: an object that has only a box would count as an
        object without pixels.
        """
        if self._annotations.all_have_outlines:
            self.declare_annotated("boxes", "masks")

    def count_box_format(self, image_id: int, box: Sequence[float]) -> None:
        """Count a box (x, y, width, height) for warnings on other formats of the source."""
        self._box_formats.add(box, self.get_image_size(image_id))

    def get_image_size(self, image_id: int) -> tuple[int, int]:
        """Return the (height, width) of an image that was added."""
        record = self._images.get_record(image_id)
        return record["height"], record["width"]

    def write(self) -> SplitSummary:
        """Write the JSON atomically, and return the summary of the split.

        Raises:
            DataError: If many objects are invalid (see `ConversionReport`), or most boxes are
                fractions of the image size.
        """
        self.report.require_few_invalid(sum(self._annotations.counts), self.split)
        counts = self._box_formats.count()
        if counts.are_mostly_relative:
            raise DataError(f"{self.split}: {counts.describe_relative()}; {_REPLACE_FRACTIONS}")
        with open_atomic(self.file) as stream:
            stream.write(f'{{"info": {encode_json(self._info)}, ')
            stream.write(f'"licenses": {encode_json(self._licenses)}, "images": [')
            for number, record in enumerate(self._images.records):
                stream.write(f"{', ' if number else ''}{encode_json(record)}")
            stream.write('], "annotations": [')
            self._annotations.copy_to(stream)
            stream.write(f'], "categories": {encode_json(self._categories)}}}')
        objects = dict(zip(self._names, self._annotations.counts, strict=True))
        has_maps = any("sem_seg_file_name" in record for record in self._images.records)
        pixels = (
            dict(zip(self._names, map(int, self._semantic_maps.pixels[1:]), strict=True))
            if has_maps
            else {}
        )
        return SplitSummary(
            self.split,
            len(self._images.records),
            objects,
            pixels,
            tuple(self.report.skipped),
            changed=dict(self.report.changed),
            notes=tuple(self.report.notes),
            warnings=(
                *self.report.list_warnings(),
                *self._list_crowd_warnings(),
                *self._list_format_warnings(),
            ),
            image_paths=frozenset(self._images.paths),
        )

    def _list_crowd_warnings(self) -> list[str]:
        """Return a warning on the classes whose objects are all crowds."""
        annotations = self._annotations
        return describe_ignored_classes(
            [
                category["name"]
                for category, count, num_crowds in zip(
                    self._categories, annotations.counts, annotations.crowd_counts, strict=True
                )
                if category["isthing"] and 0 < count == num_crowds
            ]
        )

    def _list_format_warnings(self) -> list[str]:
        """Return warnings on boxes of the source that probably have another format."""
        counts = self._box_formats.count()
        warnings = []
        if counts.are_corners:
            warnings.append(
                f"{counts.describe_corners()}; if the widths and heights of the source are the "
                "lower right corners x2, y2, convert it with these columns as x_max and y_max"
            )
        if counts.are_relative:
            warnings.append(f"{counts.describe_relative()}; {_REPLACE_FRACTIONS}")
        return warnings
