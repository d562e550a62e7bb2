"""Annotation records of a COCO file, which go to disk as they are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from data_tools.writing.coco_shapes import Shape
from data_tools.writing.text_spool import TextSpool
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_encoding import encode_json


class CocoAnnotations:
    """Annotation records of one COCO file.

    Args:
        folder: Folder of the JSON.
        names: Names of the categories in order; the first gets id 1.

    Attributes:
        category_ids: Name of a category -> id.
        counts: Number of annotations by category, in order.
        crowd_counts: Number of crowd objects by category, in order.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.category_ids = {name: index for index, name in enumerate(names, start=1)}
        self.counts = [0] * len(names)
        self.crowd_counts = [0] * len(names)
        self._num_outlines = 0
        self._spool = TextSpool(folder)

    @property
    def all_have_outlines(self) -> bool:
        """True if there are annotations and all of them have an outline."""
        return 0 < self._num_outlines == self._spool.count

    def add_label(self, image: Mapping[str, Any], category: str) -> None:
        """Add an image-level label.

        Args:
            image: Record of the image in the JSON.
            category: Name of the class.

        Raises:
            DataError: If the class is unknown.
        """
        category_id = self._get_category_id(image, category)
        self._write({"image_id": image["id"], "category_id": category_id})

    def add_object(
        self,
        image: Mapping[str, Any],
        category: str,
        shape: Shape,
        *,
        iscrowd: bool,
        attributes: Mapping[str, Any] | None,
    ) -> None:
        """Add an object.

        Args:
            image: Record of the image in the JSON.
            category: Name of the class.
            shape: Shape of the object.
            iscrowd: Whether training and evaluation ignore the object.
            attributes: Additional attributes of the object, stored under the key `attributes`.

        Raises:
            DataError: If the shape has no area or the class is unknown.
        """
        category_id = self._get_category_id(image, category)
        if shape.is_empty:
            raise DataError(
                f"a {category} of {image['file_name']} has no area (x, y, width, height = "
                f"{shape.box})"
            )
        annotation = {
            "image_id": image["id"],
            "category_id": category_id,
            **shape.to_fields(),
            "iscrowd": int(iscrowd),
        }
        if shape.segmentation is not None:
            annotation["segmentation"] = shape.segmentation
        if attributes:
            annotation["attributes"] = dict(attributes)
        self._num_outlines += shape.segmentation is not None
        self.crowd_counts[category_id - 1] += iscrowd
        self._write(annotation)

    def copy_to(self, stream: TextIO) -> None:
        """Write all records to a JSON file, separated by commas."""
        self._spool.copy_to(stream)

    def _write(self, annotation: Mapping[str, Any]) -> None:
        self.counts[annotation["category_id"] - 1] += 1
        self._spool.add(encode_json({"id": self._spool.count + 1, **annotation}))

    def _get_category_id(self, image: Mapping[str, Any], category: str) -> int:
        if category not in self.category_ids:
            raise DataError(
                f"an object of {image['file_name']} is a {category!r}; the classes are "
                f"{', '.join(self.category_ids)}"
            )
        return self.category_ids[category]
