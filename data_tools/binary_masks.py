"""Pictures with one mask each, white where the one class is: Kvasir-SEG, ISIC 2018 task 1.

    ROOT/images/NAME.jpg   pictures; which folders, by split, is an option
    ROOT/masks/NAME.jpg    their masks, of the same name, with a suffix where the data set has one
    ROOT/train.txt         names, one a line, where one folder holds all splits; same for val, test

The values in the files decide which of their two levels is the class (`mask_reading`). Masks that
were stored as JPEG have no clean values: they are accepted where they are clearly black and white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.coco_writer import Category, CocoWriter
from data_tools.components import SMALL_COMPONENT, components
from data_tools.mask_coverage import MaskCoverage
from data_tools.mask_reading import Foreground, MaskReader
from data_tools.outlines import clipped_box
from data_tools.picture_io import picture_size
from data_tools.progress import PictureCount, Progress
from data_tools.source_folder import (
    SPLITS,
    find_picture,
    is_file,
    pictures_by_stem,
    read_names,
    require_parts,
    split_lists,
)
from data_tools.split_summary import SplitSummary
from resnet_tasks.data.json_files import read_json
from resnet_tasks.errors import DataError


@dataclass(frozen=True)
class Folders:
    """Where the pictures and the masks of a split lie, relative to the source.

    Attributes:
        images: Folder of the pictures.
        masks: Folder of the masks.
    """

    images: str
    masks: str


@dataclass(frozen=True)
class MaskRule:
    """How masks are named and read.

    Attributes:
        suffix: What follows the picture's name in the name of its mask.
        threshold: Lowest gray value, 1 to 255, of pixels that belong to the class; None: the values
            in the files decide.
        foreground: `auto`: the values in the files decide. `color`: what is not black. `alpha`:
            what is opaque. `index`: what is not index 0 of the palette. A value or an RGB color:
            that of the class.
        objects: Whether the whole mask is one object or every connected component is one.
        boxes: JSON with the boxes of all pictures, as Kvasir-SEG has it: these are the objects
            then, each with the pixels inside its box.
    """

    suffix: str = ""
    threshold: int | None = None
    foreground: Foreground = "auto"
    objects: Literal["whole", "components"] = "whole"
    boxes: str | None = None


@dataclass(frozen=True)
class _Picture:
    """One picture of a split."""

    picture: Path
    mask: Path
    boxes: Sequence[tuple[float, float, float, float]] | None
    size: tuple[int, int] | None


def convert_binary_masks(
    source: Path,
    out: Path,
    *,
    category: str,
    folders: Mapping[str, Folders],
    masks: MaskRule = MaskRule(),
    val_fraction: float = 0.0,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Converts every split to COCO JSON with label maps, masks and boxes.

    Pixels of the background are unlabelled (0) in the label maps; a recipe makes them a class
    with `background: true`. An empty mask is a picture that was looked at and holds nothing; it is
    listed in a warning, as is a mask that covers its picture.

    Args:
        source: Folder that holds the folders.
        out: Folder for the JSON files and `semantic/`.
        category: What the masks show.
        folders: Split -> folders. Where `train` is the only one, lists `train.txt`, `val.txt`,
            `test.txt` in the source, or else `val_fraction`,
            divide it.
        masks: How masks are named and read.
        val_fraction: Share of the pictures, 0 to 1, that becomes val, drawn by name.
        copy_images: Copy the pictures beside the JSON instead of referring to them.
        license_name: Licence of the data, for the JSON.
        progress: Called with (done, total) after each picture.

    Returns:
        What was written, by split.

    Raises:
        DataError: If a folder or file is missing or unreadable, a mask's size is not its
            picture's, or a mask has several interpretations; the message names it.
    """
    is_threshold = masks.threshold is None or 1 <= masks.threshold <= 255
    if not is_threshold or not 0 <= val_fraction < 1:
        raise DataError(
            f"masks.threshold is {masks.threshold} and val_fraction {val_fraction}; allowed are 1 "
            "to 255, and 0 to below 1"
        )
    unknown = sorted(set(folders) - set(SPLITS))
    if unknown or "train" not in folders:
        raise DataError(f"folders has {', '.join(folders)}; it needs train, and may have val, test")
    require_parts(source, [part for each in folders.values() for part in (each.images, each.masks)])
    boxes = None if masks.boxes is None else _read_boxes(source / masks.boxes)
    splits = _splits(source, folders, masks.suffix, boxes)
    if len(splits) == 1:
        splits = _divided(source, splits["train"], val_fraction)
    # All masks are read twice: what one of one color means shows in the others.
    count = PictureCount(2 * sum(map(len, splits.values())), progress)
    reader = MaskReader(masks.foreground, masks.threshold, allow_lossy=True, group="masks")
    reader.survey(count.over([each.mask for part in splits.values() for each in part]))
    summaries = []
    for split, pictures in splits.items():
        writer = CocoWriter(
            out,
            split,
            [Category(category)],
            annotated=("boxes", "masks", "semantic"),
            images_root=source,
            copy_images=copy_images,
            description=f"Converted from one mask per picture, {split}",
            license_name=license_name,
        )
        coverage = MaskCoverage()
        for each in count.over(pictures):
            _add_picture(writer, each, category, masks.objects, reader, coverage)
        summaries.append(replace(writer.write(), warnings=coverage.warnings()))
    return tuple(summaries)


def _splits(
    source: Path,
    folders: Mapping[str, Folders],
    mask_suffix: str,
    boxes: Mapping[str, Any] | None,
) -> dict[str, list[_Picture]]:
    splits = {}
    for split in SPLITS:
        if split not in folders:
            continue
        places = folders[split]
        pictures = pictures_by_stem(source / places.images)
        masks = pictures_by_stem(source / places.masks)
        splits[split] = [
            _Picture(
                picture,
                find_picture(
                    masks, f"{name}{mask_suffix}", source / places.masks, source / places.images
                ),
                *_boxes_of(name, boxes),
            )
            for name, picture in pictures.items()
        ]
        if not splits[split]:
            raise DataError(f"{source / places.images} holds no picture; unpack the pictures there")
    return splits


def _divided(
    source: Path, pictures: Sequence[_Picture], val_fraction: float
) -> dict[str, list[_Picture]]:
    """One folder's pictures by the lists beside it, else by a share of their names."""
    by_name = {each.picture.stem: each for each in pictures}
    if lists := split_lists(source):
        names = {split: read_names(file) for split, file in lists.items()}
        for split, listed in names.items():
            missing = [name for name in listed if Path(name).stem not in by_name]
            if missing:
                raise DataError(
                    f"{lists[split]} lists {len(missing)} names without a picture, the first "
                    f"{missing[0]}; add them or take them out of the list"
                )
        return {split: [by_name[Path(n).stem] for n in listed] for split, listed in names.items()}
    count = round(val_fraction * len(pictures))
    drawn = set(np.random.default_rng(0).permutation(len(pictures))[:count].tolist())
    parts = {
        "train": [each for i, each in enumerate(pictures) if i not in drawn],
        "val": [each for i, each in enumerate(pictures) if i in drawn],
    }
    return {split: part for split, part in parts.items() if part}


def _read_boxes(file: Path) -> Mapping[str, Any]:
    if not is_file(file):
        raise DataError(f"the boxes {file} are missing; add them or leave the option out")
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} should name each picture with its height, width and bbox")
    for name, each in content.items():
        try:
            size = (int(each["height"]), int(each["width"]))
            found = [tuple(float(box[key]) for key in _CORNERS) for box in each["bbox"]]
            if not np.isfinite(found).all():
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"{file}: {name!r} should have height, width and bbox, a list of boxes with "
                f"{', '.join(_CORNERS)}"
            ) from None
        content[name] = (found, size)
    return content


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _boxes_of(name: str, boxes: Mapping[str, Any] | None) -> tuple[Any, tuple[int, int] | None]:
    if boxes is None:
        return None, None
    if name not in boxes:
        raise DataError(f"the file of boxes has no entry for the picture {name}; add it")
    found: tuple[Any, tuple[int, int]] = boxes[name]
    return found


def _add_picture(
    writer: CocoWriter,
    each: _Picture,
    category: str,
    objects: Literal["whole", "components"],
    reader: MaskReader,
    coverage: MaskCoverage,
) -> None:
    size = picture_size(each.picture)
    mask = reader.read(each.mask)
    coverage.add(Path(each.mask.name), mask)
    for what, other in ((each.mask, mask.shape), ("the file of boxes", each.size or size)):
        if other != size:
            raise DataError(
                f"{each.picture} has the size {size} (height, width), {what} says {other}; both "
                "must agree"
            )
    image_id = writer.add_image(each.picture, size=size)
    writer.add_semantic(image_id, mask.astype(np.int64))
    name = each.mask.name
    if each.boxes is not None:
        _add_boxes(writer, image_id, category, mask, each.boxes, name)
        return
    if objects == "whole":
        if mask.any():
            writer.add_mask(image_id, category, mask)
        return
    for part in components(mask):
        if part.area < SMALL_COMPONENT:
            speck = f"{category} of {part.area} pixels"
            writer.skip(name, speck, "a speck; its pixels stay labelled")
        else:
            writer.add_mask(image_id, category, part.mask(size))


def _add_boxes(
    writer: CocoWriter,
    image_id: int,
    category: str,
    mask: NDArray[np.bool_],
    boxes: Sequence[tuple[float, float, float, float]],
    file: str,
) -> None:
    """Every box an object, with the mask's pixels inside it."""
    for corners in boxes:
        x, y, width, height = clipped_box(corners, mask.shape)
        part = np.zeros_like(mask)
        rows = slice(int(y), int(np.ceil(y + height)))
        columns = slice(int(x), int(np.ceil(x + width)))
        part[rows, columns] = mask[rows, columns]
        if part.any():
            writer.add_mask(image_id, category, part)
        else:
            writer.skip(file, f"{category}, box {corners}", "the mask has no pixel in it")


def read_binary_mask(file: Path, threshold: int | None = None) -> NDArray[np.bool_]:
    """Read one mask by itself, `(height, width)` bool.

    Args:
        file: Path of the mask.
        threshold: Lowest gray value of the class, 1 to 255; None: the values in the file decide.

    Raises:
        DataError: If the file cannot be read or has several interpretations.
    """
    return MaskReader(threshold=threshold, allow_lossy=True, group="masks").read(file)
