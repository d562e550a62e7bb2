"""Image files of an export: names without folders, and copies of the images or links to them."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.errors import DataError

ImageMode = Literal["copy", "link", "none"]
"""What becomes of the images."""


def assign_flat_names(images: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, str]]:
    """Every image with a file name that is unique without its suffix and has no folder.

    Labels go by the name without suffix; YOLO replaces `images` in paths, and VOC has one folder.
    """
    # An id may be a text, which could lead out of the folder.
    stems = Counter(Path(record.file_name).stem for record in images)
    used_stems: set[str] = set()
    for number, record in enumerate(images, start=1):
        path = Path(record.file_name)
        stem = path.stem
        if stems[stem] > 1:
            stem = "_".join((*path.parts[:-1], stem, path.suffix[1:]))
        while stem in used_stems:
            stem = f"{stem}_{record.id if isinstance(record.id, int) else number}"
        used_stems.add(stem)
        yield record, f"{stem}{path.suffix}"


def copy_or_link_image(image: Path, target: Path, images: ImageMode) -> None:
    """Copies an image or links to it.

    Raises:
        DataError: If it is missing.
    """
    if images == "none":
        return
    if not image.is_file():
        raise DataError(
            f"the image {image} is missing; name the folder of the images (--images), or "
            "write labels only (images=none)"
        )
    if images == "link":
        target.symlink_to(os.path.abspath(image))  # noqa: PTH100 - links are kept
    else:
        shutil.copyfile(image, target)
