"""Converter for one folder per image with one mask per object, as in Data Science Bowl 2018.

    ROOT/stage1_train/ID/images/ID.png    the image
    ROOT/stage1_train/ID/masks/*.png      one object each, whose pixels are not black (or opaque)
    ROOT/train.txt                        ids, one per line; same for `val` and `test`

Without lists all images belong to the split `train`. The folder of ids may also be ROOT itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data_tools.reading.image_index import ImageIndex
from data_tools.reading.image_io import measure_image_size
from data_tools.reading.mask_coverage import MaskCoverage
from data_tools.reading.mask_foreground import Foreground, MaskReader
from data_tools.reading.name_lists import read_names
from data_tools.reading.source_folder import (
    find_split_lists,
    format_first,
    format_listing,
    list_unread_files,
    require_parts,
)
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.find_images import list_children
from resnet_tasks.data.images.image_files import try_read_image_size
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

IDS_FOLDER = "stage1_train"
CONTOUR = "contour"
"""Name of the class of object contours."""


def convert_instance_masks(
    source: Path,
    out: Path,
    *,
    category: str = "nucleus",
    contour: int = 0,
    foreground: Foreground = "auto",
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every split of the source to COCO JSON with masks, boxes and label maps.

    Pixels in no mask are unlabeled (0) in the label maps; a recipe makes them a class with
    `background: true`. Empty masks are skipped and listed in the summary, as are hidden files and
    those of operating systems; images without a mask file are listed in a warning.

    Args:
        source: Path of the folder that contains the folder of ids and the lists.
        out: Path of the folder for the JSON files and `semantic/`.
        category: Name of the class of all objects.
        contour: Width in pixels of the contour of every object, which is a separate class
            (`CONTOUR`) in the label maps, but not in masks and boxes, so that adjacent objects
            remain separable. It lies inside the object, and the image border has none. 0: no such
            class.
        foreground: Pixels of the object. `auto`: the values in the files decide; `color`: pixels
            that are not black; `alpha`: opaque pixels; `index`: pixels other than palette index 0;
            a value or an RGB color: pixels of that value or color.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, which is written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written files of each split.

    Raises:
        DataError: If a folder or file is missing or unreadable, the sizes of a mask and its image
            differ (the message names the mask), a folder of masks contains a file that is not an
            image, or `contour` is negative.
    """
    if contour < 0:
        raise DataError(f"contour is {contour}; it must be a width of 0 or more pixels")
    categories = [
        CategorySpec(category),
        *([CategorySpec(CONTOUR, isthing=False)] if contour else []),
    ]
    require_parts(source, ())
    folder = source / IDS_FOLDER if (source / IDS_FOLDER).is_dir() else source
    splits = read_splits(source, folder)
    reader = MaskReader(foreground, one_level=False, files=_list_mask_files(folder, splits))
    dataset = DatasetWriter(
        out,
        categories,
        annotated=("boxes", "masks", "semantic"),
        description="Converted from one mask per object, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )
    coverage: defaultdict[str, MaskCoverage] = defaultdict(MaskCoverage)

    def add_image(writer: CocoWriter, name: str) -> None:
        _add_image(writer, folder / name, category, contour, reader, coverage[writer.split])

    return dataset.write(
        track_splits(splits, progress),
        add_image,
        lambda writer: writer.report.warn(*coverage[writer.split].warnings()),
    )


def read_splits(source: Path, folder: Path) -> dict[str, list[str]]:
    """Return the names of the images of every split.

    Args:
        source: Folder of the lists of the splits.
        folder: Folder with a folder for every image.

    Raises:
        DataError: If there is no image, or a listed one is missing.
    """
    lists = find_split_lists(source)
    image_names = {child.name for child in list_children(folder) if (child / "images").is_dir()}
    if not image_names:
        raise DataError(
            f"{folder} should contain one folder per image with images/ and masks/ inside; found "
            f"{format_listing(folder)}: pass the folder that contains {IDS_FOLDER}"
        )
    splits = {split: read_names(file, image_names) for split, file in lists.items()}
    for split, names in splits.items():
        missing = [name for name in names if name not in image_names]
        if missing:
            raise DataError(
                f"{lists[split]} lists images without a folder with images/ in {folder}: "
                f"{format_first(missing)}; add them or remove them from the list"
            )
    return splits or {"train": sorted(image_names)}


def _list_mask_files(folder: Path, splits: Mapping[str, Sequence[str]]) -> list[Path]:
    folders = (folder / name / "masks" for names in splits.values() for name in names)
    files: list[Path] = []
    for masks_folder in filter(Path.is_dir, folders):
        list_unread_files(masks_folder)  # raises for files that would otherwise be skipped silently
        files.extend(ImageIndex(masks_folder).files)
    return files


def _add_image(
    writer: CocoWriter,
    folder: Path,
    category: str,
    contour: int,
    reader: MaskReader,
    coverage: MaskCoverage,
) -> None:
    images = ImageIndex(folder / "images").files
    if len(images) != 1:
        raise DataError(f"{folder / 'images'} holds {Count(len(images)):image}; it should hold one")
    if not (folder / "masks").is_dir():
        raise DataError(f"{folder} has no folder masks; add it, empty where there is no object")
    size = measure_image_size(images[0])
    image_id = writer.add_image(images[0], size=size)
    semantic = np.zeros(size, dtype=np.int64)
    for file in list_unread_files(folder / "masks"):
        writer.report.skip(f"{folder.name}/masks/{file.name}", file.name, "a hidden or system file")
    mask_files = ImageIndex(folder / "masks").files
    coverage.add_image(folder.name, len(mask_files))
    for file in mask_files:
        declared = try_read_image_size(file)  # before decoding: it may be huge
        if declared is not None and sorted(declared) != sorted(size):
            raise DataError(_format_other_size(file, declared, size))
        mask = reader.read(file)
        coverage.add(Path(folder.name, "masks", file.name), mask)
        if mask.shape != size:
            raise DataError(_format_other_size(file, mask.shape, size))
        if not mask.any():
            writer.report.skip(f"{folder.name}/masks/{file.name}", category, "its mask is empty")
            continue
        writer.add_mask(image_id, category, mask)
        semantic[mask] = 1
        if contour:
            semantic[compute_contour(mask, contour)] = 2
    writer.add_semantic(image_id, semantic)


def _format_other_size(file: Path, actual: tuple[int, ...], size: tuple[int, int]) -> str:
    return (
        f"the mask {file} has size {actual} (height, width), but its image has {size}; both must "
        "agree"
    )


def compute_contour(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the pixels of an object within `width` pixels (including diagonals) of its outside.

    The area beyond the image border does not count as outside, since the object may continue there.

    Args:
        mask: `(height, width)` bool mask of the object.
        width: Width of the contour in pixels.

    Returns:
        `(height, width)` bool mask of the contour.
    """
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    eroded = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_REPLICATE)
    outer: NDArray[np.bool_] = mask & (eroded == 0)
    return outer
