"""Image files of an export: flat file names, and copies of the images or links to them."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from data_tools.reading.source_folder import is_file
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.images.find_images import list_children
from resnet_tasks.errors import DataError

ImageMode = Literal["copy", "link", "none"]
"""Treatment of the images in an export."""


def find_images_root(coco: CocoFile, split: str) -> Path | None:
    """Return the folder of the images of a COCO file, if they are not where the file states.

    COCO's own folders have the images in `train2017` next to `annotations`.

    Args:
        coco: COCO file.
        split: Name of the split; of several folders, the one with this name is preferred.

    Returns:
        The only folder that has the first and the last image, in the dataset's folder or up to two
        levels below; None if there is none, or several.
    """
    names = [record.file_name for record in (*coco.images[:1], *coco.images[-1:])]
    if not names or is_file(coco.images_root / names[0]):
        return None
    folder = coco.path.resolve().parent
    level = [folder.parent if folder.name == "annotations" else folder]
    matching: list[Path] = []
    for _ in range(3):
        matching += [f for f in level if all(is_file(f / name) for name in names)]
        level = [child for f in level for child in list_children(f) if child.is_dir()]
    named = [f for f in matching if split in re.split(r"[^a-z]+", f.name.lower())]
    candidates = named or matching
    return candidates[0] if len(candidates) == 1 else None


def assign_flat_names(images: Sequence[ImageRecord]) -> Iterator[tuple[ImageRecord, str]]:
    """Yield every image with a file name that has no folder and is unique without its suffix.

    Label files have the name of their image without its suffix. YOLO replaces `images` in paths,
    and VOC keeps all images in one folder.
    """
    stems = Counter(Path(record.file_name).stem for record in images)
    used_stems: set[str] = set()
    for number, record in enumerate(images, start=1):
        path = Path(record.file_name)
        stem = path.stem
        if stems[stem] > 1:
            stem = "_".join((*path.parts[:-1], stem, path.suffix[1:]))
        # An id may be a string, which could lead out of the folder: only integers enter the name.
        while stem in used_stems:
            stem = f"{stem}_{record.id if isinstance(record.id, int) else number}"
        used_stems.add(stem)
        yield record, f"{stem}{path.suffix}"


def copy_or_link_image(image: Path, target: Path, images: ImageMode) -> None:
    """Copy an image to the export or link to it.

    Args:
        image: Path of the image.
        target: Path of the copy or link.
        images: `copy`, `link`, or `none` to do nothing.

    Raises:
        DataError: If the image is missing.
    """
    if images == "none":
        return
    if not is_file(image):
        raise DataError(
            f"the image {image} is missing; name the folder of the images (--images), or "
            "write labels only (images=none)"
        )
    if images == "link":
        target.symlink_to(os.path.abspath(image))  # noqa: PTH100 - links are kept
    else:
        shutil.copyfile(image, target)
