"""Converter for images with one binary mask each, such as Kvasir-SEG and ISIC 2018 task 1.

    ROOT/images/NAME.jpg   images; the folders of each split are an option
    ROOT/masks/NAME.jpg    masks with the names of the images, plus a suffix in some datasets
    ROOT/train.txt         names, one per line, if one folder holds all splits; same for val, test

The values in the files decide which of their two levels is the class (`mask_foreground`). The
values of masks in JPEG are inexact; such masks are accepted if they are clearly black and white.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.reading.image_index import pair_images
from data_tools.reading.image_io import measure_image_size
from data_tools.reading.mask_coverage import MaskCoverage
from data_tools.reading.mask_foreground import Foreground, MaskReader
from data_tools.reading.name_lists import read_names
from data_tools.reading.source_folder import (
    SPLITS,
    find_split_lists,
    hold_out,
    is_file,
    require_parts,
)
from data_tools.shapes.boxes import clip_corners, sort_corners
from data_tools.shapes.components import SMALL_COMPONENT, find_components
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, ProgressCounter
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.image_files import try_read_image_size
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import read_json
from resnet_tasks.number_formats import Count


@dataclass(frozen=True)
class ImageMaskFolders:
    """Folders of the images and masks of a split, relative to the source.

    Attributes:
        images: Folder of the images.
        masks: Folder of the masks.
    """

    images: str
    masks: str


@dataclass(frozen=True)
class MaskRule:
    """Naming and interpretation of masks.

    Attributes:
        suffix: Text that follows the stem of the image in the stem of its mask.
        threshold: Lowest gray value, 1 to 255, of pixels that belong to the class; None: the values
            in the files decide.
        foreground: Pixels of the class. `auto`: the values in the files decide; `color`: pixels
            that are not black; `alpha`: opaque pixels; `index`: pixels other than palette index 0;
            a value or an RGB color: pixels of that value or color.
        objects: `whole`: the mask is one object; `components`: every connected component is one.
        boxes: Path, relative to the source, of a JSON file with the boxes of all images, as in
            Kvasir-SEG. Each box is then an object with the mask's pixels inside the box.
    """

    suffix: str = ""
    threshold: int | None = None
    foreground: Foreground = "auto"
    objects: Literal["whole", "components"] = "whole"
    boxes: str | None = None


@dataclass(frozen=True)
class _ImageRecord:
    """Image of a split with its mask, and its boxes and size according to the file of boxes."""

    image: Path
    mask: Path
    boxes: Sequence[tuple[float, float, float, float]] | None
    size: tuple[int, int] | None


def convert_binary_masks(
    source: Path,
    out: Path,
    *,
    category: str,
    folders: Mapping[str, ImageMaskFolders],
    masks: MaskRule = MaskRule(),
    val_fraction: float = 0.0,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every split to COCO JSON with label maps, masks and boxes.

    Pixels of the background are unlabeled (0) in the label maps; a recipe makes them a class
    with `background: true`. The image of an empty mask is written as an annotated image without
    objects. Empty masks and masks that cover the whole image are listed in a warning.

    Args:
        source: Path of the folder that contains `folders`.
        out: Path of the folder for the JSON files and `semantic/`.
        category: Name of the class that the masks show.
        folders: Split -> folders. If `train` is the only one, it is divided by the lists
            `train.txt`, `val.txt` and `test.txt` in the source, or else by `val_fraction`.
        masks: Naming and interpretation of the masks.
        val_fraction: Fraction of the images, from 0 to below 1, that are held out as val. They are
            drawn at random with a fixed seed.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, which is written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written files of each split.

    Raises:
        DataError: If an option is out of range, a folder or file is missing or unreadable, the
            sizes of a mask and its image differ, or a mask has several interpretations. The message
            names the file.
    """
    is_threshold = masks.threshold is None or 1 <= masks.threshold <= 255
    if not is_threshold or not 0 <= val_fraction < 1:
        raise DataError(
            f"masks.threshold is {masks.threshold} and val_fraction {val_fraction}; the threshold "
            "must be 1 to 255, and the fraction at least 0 and below 1"
        )
    unknown = sorted(set(folders) - set(SPLITS))
    if unknown or "train" not in folders:
        raise DataError(
            f"folders has the splits {', '.join(folders)}; train is required, val and test are "
            "optional"
        )
    require_parts(
        source,
        [
            part
            for split_folders in folders.values()
            for part in (split_folders.images, split_folders.masks)
        ],
    )
    boxes = None if masks.boxes is None else _read_boxes(source / masks.boxes)
    splits = _list_splits(source, folders, masks.suffix, boxes)
    if len(splits) == 1:
        splits = _divide_images(source, splits["train"], val_fraction)
    # All masks are read twice: the meaning of a mask with a single color depends on the others.
    count = ProgressCounter(2 * sum(map(len, splits.values())), progress)
    reader = MaskReader(masks.foreground, masks.threshold, allow_lossy=True, group="masks")
    records = [record for part in splits.values() for record in part]
    reader.survey(_check_mask_size(record).mask for record in count.track(records))
    dataset = DatasetWriter(
        out,
        [CategorySpec(category)],
        annotated=("boxes", "masks", "semantic"),
        description="Converted from one mask per image, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )
    coverage: defaultdict[str, MaskCoverage] = defaultdict(MaskCoverage)

    def add_image(writer: CocoWriter, record: _ImageRecord) -> None:
        _add_image(writer, record, category, masks.objects, reader, coverage[writer.split])

    return dataset.write(
        {split: count.track(records) for split, records in splits.items()},
        add_image,
        lambda writer: writer.report.warn(*coverage[writer.split].warnings()),
    )


def _list_splits(
    source: Path,
    folders: Mapping[str, ImageMaskFolders],
    mask_suffix: str,
    boxes: Mapping[str, Any] | None,
) -> dict[str, list[_ImageRecord]]:
    splits = {}
    for split in SPLITS:
        if split not in folders:
            continue
        images, masks = source / folders[split].images, source / folders[split].masks
        splits[split] = [
            _ImageRecord(image, mask, *_find_boxes(image.stem, boxes))
            for image, mask in pair_images(images, masks, ending=mask_suffix)
        ]
        if not splits[split]:
            raise DataError(f"{images} contains no image; unpack the images there")
    return splits


def _divide_images(
    source: Path, images: Sequence[_ImageRecord], val_fraction: float
) -> dict[str, list[_ImageRecord]]:
    """Divide the images of one folder by the lists in the source, or else at random."""
    by_name = {record.image.stem: record for record in images}
    if lists := find_split_lists(source):
        names = {split: read_names(file, by_name) for split, file in lists.items()}
        for split, listed_names in names.items():
            missing = [name for name in listed_names if name not in by_name]
            if missing:
                raise DataError(
                    f"{lists[split]} lists {Count(len(missing)):name} without an image, the first "
                    f"{missing[0]}; add the images or remove the names from the list"
                )
        return {
            split: [by_name[name] for name in listed_names] for split, listed_names in names.items()
        }
    count = round(val_fraction * len(images))
    val_indices = set(np.random.default_rng(0).permutation(len(images))[:count].tolist())
    splits = hold_out(images, val_indices)
    return {split: records for split, records in splits.items() if records}


def _read_boxes(file: Path) -> Mapping[str, Any]:
    if not is_file(file):
        raise DataError(f"the file of boxes {file} is missing; add it or omit the option")
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} must map the name of each image to its height, width and bbox")
    for name, annotation in content.items():
        try:
            size = (int(annotation["height"]), int(annotation["width"]))
            corners = [tuple(float(box[key]) for key in _CORNERS) for box in annotation["bbox"]]
            if not np.isfinite(corners).all():
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"{file}: {name!r} should have height, width and bbox, a list of boxes with "
                f"{', '.join(_CORNERS)}"
            ) from None
        content[name] = (corners, size)
    return content


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _find_boxes(name: str, boxes: Mapping[str, Any] | None) -> tuple[Any, tuple[int, int] | None]:
    if boxes is None:
        return None, None
    if name not in boxes:
        raise DataError(f"the file of boxes has no entry for the image {name}; add it")
    boxes_and_size: tuple[Any, tuple[int, int]] = boxes[name]
    return boxes_and_size


def _add_image(
    writer: CocoWriter,
    record: _ImageRecord,
    category: str,
    objects: Literal["whole", "components"],
    reader: MaskReader,
    coverage: MaskCoverage,
) -> None:
    size = measure_image_size(record.image)
    mask = reader.read(record.mask)
    coverage.add(Path(record.mask.name), mask)
    for source, other_size in (
        (record.mask, mask.shape),
        ("the file of boxes", record.size or size),
    ):
        _require_same_size(record.image, size, source, other_size)
    image_id = writer.add_image(record.image, size=size)
    writer.add_semantic(image_id, mask.astype(np.int64))
    name = record.mask.name
    if record.boxes is not None:
        _add_boxes(writer, image_id, category, mask, record.boxes, name)
        return
    if objects == "whole":
        if mask.any():
            writer.add_mask(image_id, category, mask)
        return
    for component in find_components(mask):
        if component.area < SMALL_COMPONENT:
            speck = f"{category} of {Count(component.area):pixel}"
            writer.report.skip(name, speck, "a speck; its pixels stay labeled")
        else:
            writer.add_mask(image_id, category, component.to_mask(size))


def _check_mask_size(record: _ImageRecord) -> _ImageRecord:
    """Return a record after checking by the headers that mask and image have the same size.

    This prevents decoding a mask of excessive size. Height and width may be swapped, since the EXIF
    orientation of one of the two files may rotate it.

    Raises:
        DataError: If the sizes differ.
    """
    size, mask_size = measure_image_size(record.image), try_read_image_size(record.mask)
    if mask_size is not None and sorted(mask_size) != sorted(size):
        _require_same_size(record.image, size, record.mask, mask_size)
    return record


def _require_same_size(
    image: Path, size: tuple[int, int], source: Path | str, other_size: tuple[int, ...]
) -> None:
    if other_size != size:
        raise DataError(
            f"{image} has the size {size} (height, width), but {source} has {other_size}; both "
            "must agree"
        )


def _add_boxes(
    writer: CocoWriter,
    image_id: int,
    category: str,
    mask: NDArray[np.bool_],
    boxes: Sequence[tuple[float, float, float, float]],
    file: str,
) -> None:
    """Add every box as an object with the mask's pixels inside it."""
    for corners in boxes:
        part = np.zeros_like(mask)
        if (box := clip_corners(sort_corners(corners), mask.shape)) is not None:
            x, y, width, height = box
            rows = slice(int(y), int(np.ceil(y + height)))
            columns = slice(int(x), int(np.ceil(x + width)))
            part[rows, columns] = mask[rows, columns]
        if part.any():
            writer.add_mask(image_id, category, part)
        else:
            writer.report.skip(
                file, f"{category}, box {corners}", "the mask has no pixel inside the box"
            )
