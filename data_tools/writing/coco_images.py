"""Image records of a COCO file: names, sizes, groups, and copies of the images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.reading.image_io import measure_image_size
from data_tools.reading.source_folder import make_absolute
from resnet_tasks.errors import DataError


class CocoImages:
    """Image records of one COCO file.

    Args:
        folder: Folder of the JSON.
        split: Name of the split.
        root: Folder that image names are relative to; None if the images lie inside `folder`.
        copy_images: Whether to copy the images to `folder/images/SPLIT`.

    Attributes:
        root: Absolute path of the folder that image names are relative to.
        records: Records of the images in the JSON; the first has id 1.
        paths: Absolute paths of the images, as keys.
    """

    def __init__(self, folder: Path, split: str, *, root: Path | None, copy_images: bool) -> None:
        self.root = make_absolute(folder if root is None else root)
        self.records: list[dict[str, Any]] = []
        self.paths: dict[Path, None] = {}
        self._folder = folder
        self._split = split
        self._copy_images = copy_images

    def add(
        self,
        image: Path,
        *,
        size: tuple[int, int] | None = None,
        group: str | None = None,
        spacing: tuple[float, float] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a record and return its id; see `CocoWriter.add_image`.

        Raises:
            DataError: If the file cannot be read, lies outside the images root, or was already
                added.
        """
        if (absolute_path := make_absolute(image)) in self.paths:
            raise DataError(
                f"{self._split} lists the image {image} twice, so that each of the two entries "
                "would lack objects; put all objects of the image into one entry"
            )
        self.paths[absolute_path] = None
        height, width = size or measure_image_size(image)
        name = self._resolve_file_name(image)
        image_id = len(self.records) + 1
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
        self.records.append(record)
        return image_id

    def get_record(self, image_id: int) -> dict[str, Any]:
        """Return the record of an image."""
        return self.records[image_id - 1]

    def _resolve_file_name(self, image: Path) -> str:
        absolute = make_absolute(image)
        try:
            str(absolute).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"the image {str(image)!r} has a name that is not UTF-8, which JSON "
                "cannot store; rename the file"
            ) from None
        if not absolute.is_relative_to(self.root):
            raise DataError(f"{image} is not inside the images root {self.root}")
        name = absolute.relative_to(self.root)
        return self._copy_image(image, name) if self._copy_images else name.as_posix()

    def _copy_image(self, image: Path, name: Path) -> str:
        target = Path("images", self._split, name)
        (self._folder / target).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(image, self._folder / target)
        except FileNotFoundError:
            raise DataError(
                f"the image {image} was removed during the conversion; restore it and convert again"
            ) from None
        return target.as_posix()
