"""Converter for KITTI's 2-D objects: one text file of boxes per image, without a native val split.

    ROOT/training/image_2/000000.png    images
    ROOT/training/label_2/000000.txt    objects, one per line
    ROOT/ImageSets/train.txt, val.txt   names of a split of your choice, one per line

A line has 15 fields (readme of the object development kit, Geiger et al., CVPR 2012): type,
truncated (0..1), occluded (0..3), alpha, left, top, right, bottom (pixels from 0), height, width,
length, x, y, z, rotation_y. Only the first eight are used. The labels of `testing` are not public.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.reading.image_index import ImageIndex
from data_tools.reading.name_lists import read_names
from data_tools.reading.source_folder import (
    format_first,
    is_file,
    is_folder,
    read_lines,
    require_parts,
)
from data_tools.shapes.boxes import SourceBox, add_clipped_box
from data_tools.shapes.invalid_shape import InvalidShapeError
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary, add_unused_images
from resnet_tasks.data.splits.splitting import divide
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

CLASSES = (
    *("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc"),
    "DontCare",
)
"""All types of the development kit. DontCare regions become crowd objects of a separate class."""
DONT_CARE = "DontCare"
NUM_FIELDS = 15
LINE = re.compile("[0-9]{1,9}")
TRACK = re.compile("[0-9]+ -?[0-9]+ [A-Za-z]")
"""Start of a line of the tracking benchmark: frame, track id (-1 for DontCare) and type."""
SPLITS = ("train", "val")
LISTS = "ImageSets"
IMAGES = "training/image_2"
LABELS = "training/label_2"
_TRACKING = (
    "these are labels of KITTI's tracking benchmark, whose files describe sequences; write the "
    "lines of every frame to a label file named after its image, without the first two fields "
    "(frame and track id)"
)

Split = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class KittiObject:
    """One line of a label file.

    Attributes:
        line: Line number, from 1.
        type: One of `CLASSES`.
        corners: (left, top, right, bottom) in pixels.
        occluded: 0 visible, 1 partly, 2 largely, 3 unknown; None if it is another value.
        truncated: Fraction outside the image, 0..1; None if it is another value.
    """

    line: int
    type: str
    corners: tuple[float, float, float, float]
    occluded: int | None
    truncated: float | None


def convert_kitti(  # noqa: PLR0913 - each is an option of the format
    source: Path,
    out: Path,
    *,
    lists: Path | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    mapping: Path | None = None,
    classes: Sequence[str] | None = None,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert the labeled images to COCO JSON with boxes, `occluded` and `truncated`.

    KITTI has no val split: it must be chosen by lists or by `val_fraction`. The images come from
    drives, whose frames resemble each other. With the development kit's `mapping`, the drive is the
    group of every image, and `val_fraction` keeps drives together.

    Args:
        source: Folder that contains `training/image_2` and `training/label_2`.
        out: Folder for `train.json` and `val.json`.
        lists: Folder of `train.txt` and `val.txt`; default: `ImageSets` of the source, if it
            exists.
        val_fraction: Fraction of the images that goes to val, above 0 and below 1, instead of
            lists.
        seed: Seed of the random choice of validation images.
        mapping: Folder of the development kit with `train_mapping.txt` and `train_rand.txt`.
        classes: Types in order of their ids; default: the types of KITTI, or all types that occur
            if none of them is one of KITTI.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If no split is chosen, or a file, line or field is missing or invalid; the
            message names it.
    """
    if is_folder(source / "training/label_02"):
        raise DataError(f"{source} contains training/label_02: {_TRACKING}")
    require_parts(source, (IMAGES, LABELS))
    images = ImageIndex(source / IMAGES)
    drives = read_drives(mapping) if mapping is not None else {}
    splits, split_method = _choose_splits(source, images.by_name, drives, lists, val_fraction, seed)
    class_names = classes or _collect_classes(source, splits)
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in class_names],
        annotated=("boxes",),
        description=f"Converted from KITTI, {{split}}; {split_method}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, name: str) -> None:
        image = images.find(name, (lists or source / LISTS) / f"{writer.split}.txt")
        _add_image(writer, source, image, drives.get(name), class_names)

    summaries = dataset.write(
        track_splits(splits, progress),
        add_image,
        lambda writer: writer.report.add_note(split_method),
    )
    return add_unused_images(summaries, source, IMAGES, "no list names them")


def _collect_classes(source: Path, splits: Split) -> Sequence[str]:
    """Return the types of KITTI, or all types that occur, sorted, if none of them is KITTI's."""
    files = [source / LABELS / f"{name}.txt" for names in splits.values() for name in names]
    lines = [line.split() for file in files if is_file(file) for line in read_lines(file)]
    types = {fields[0] for fields in lines if len(fields) == NUM_FIELDS} - {DONT_CARE}
    if not types or types & set(CLASSES):
        return CLASSES
    return (*sorted(types), DONT_CARE)


def read_kitti_labels(
    file: Path, classes: Sequence[str], skip_line: Callable[[int, DataError], None]
) -> Iterator[KittiObject]:
    """Yield the objects of a label file.

    Args:
        file: Path of the label file.
        classes: Allowed types.
        skip_line: Function called with the number of a line with an invalid number of fields or an
            invalid box, and the error that names file and line.

    Raises:
        DataError: If the file is missing, or a line has an unknown type or is a label of the
            tracking benchmark.
    """
    if not file.is_file():
        raise DataError(
            f"the label file {file} is missing; every image of a split needs one, empty where "
            "there is no object"
        )
    for number, line in enumerate(read_lines(file), start=1):
        if fields := line.split():
            try:
                yield _parse_object(fields, number, f"{file}, line {number}", classes)
            except InvalidShapeError as error:
                skip_line(number, error)


def _parse_object(
    fields: list[str], number: int, location: str, classes: Sequence[str]
) -> KittiObject:
    if len(fields) != NUM_FIELDS:
        if len(fields) > NUM_FIELDS + 1 and TRACK.match(" ".join(fields)):
            raise DataError(f"{location} has {len(fields)} fields: {_TRACKING}")
        hint = (
            "; 16 fields are a detection result, not a label"
            if len(fields) == NUM_FIELDS + 1
            else ""
        )
        raise InvalidShapeError(
            f"{location} has {Count(len(fields)):field}; a label has {NUM_FIELDS}{hint}"
        )
    name = fields[0]
    if name not in classes:
        owner = "KITTI has" if classes == CLASSES else "the classes are"
        raise DataError(
            f"{location} has the type {name!r}; {owner} {', '.join(classes)}: correct it, or name "
            "all types with classes=[...]"
        )
    try:
        truncated, occluded, _, *corners = map(float, fields[1:8])
    except ValueError:
        raise InvalidShapeError(
            f"{location} has {' '.join(fields[1:8])!r} as truncated, occluded, alpha, left, top, "
            "right and bottom; all must be numbers"
        ) from None
    left, top, right, bottom = corners
    if not all(map(math.isfinite, corners)):
        raise InvalidShapeError(
            f"{location} has the box {corners}; its edges must be finite numbers"
        )
    return KittiObject(
        number,
        name,
        (left, top, right, bottom),
        int(occluded) if occluded in (0, 1, 2, 3) else None,
        truncated if 0 <= truncated <= 1 else None,
    )


def read_drives(mapping: Path) -> dict[str, str]:
    """Return image name -> drive that contains the image.

    The development kit numbers images in random order. Entry i of `train_rand.txt` is the line
    number, from 1, of image i in `train_mapping.txt`. The second word of that line is the drive.

    Args:
        mapping: Folder of the development kit.

    Raises:
        DataError: If the files are missing or do not belong together.
    """
    require_parts(mapping, ("train_mapping.txt", "train_rand.txt"))
    lines = read_lines(mapping / "train_mapping.txt")
    words = " ".join(read_lines(mapping / "train_rand.txt")).replace(",", " ").split()
    drives = {}
    for index, word in enumerate(words):
        line = int(word) if LINE.fullmatch(word) else 0
        if not 1 <= line <= len(lines) or len(lines[line - 1].split()) != 3:
            raise DataError(
                f"entry {index + 1} of {mapping / 'train_rand.txt'} is {word!r}; it must be the "
                f"number of a line `date drive frame` of train_mapping.txt, 1 to {len(lines)}"
            )
        drives[f"{index:06d}"] = lines[line - 1].split()[1]
    return drives


def _choose_splits(
    source: Path,
    images: Mapping[str, Path],
    drives: Mapping[str, str],
    lists: Path | None,
    val_fraction: float,
    seed: int,
) -> tuple[Split, str]:
    """Return the image names by split, and a sentence that describes how they were chosen."""
    folder = lists if lists is not None else source / LISTS
    if lists is not None or (folder.is_dir() and not val_fraction):
        if val_fraction:
            raise DataError("lists and val_fraction both choose the splits; omit one of them")
        require_parts(folder, tuple(f"{split}.txt" for split in SPLITS))
        names_by_split = {split: read_names(folder / f"{split}.txt", images) for split in SPLITS}
        shared_names = sorted(set(names_by_split["train"]) & set(names_by_split["val"]))
        if shared_names:
            raise DataError(
                f"{folder}: train.txt and val.txt both list {format_first(shared_names)}; splits "
                "must not share images"
            )
        return names_by_split, f"splits by the lists in {folder}"
    if not 0 < val_fraction < 1:
        raise DataError(
            f"KITTI has no val split, and val_fraction is {val_fraction}: put train.txt "
            f"and val.txt into {source / LISTS}, or pass lists=FOLDER, or val_fraction=0.2 (above "
            "0 and below 1), best with mapping=FOLDER of the development kit, so that drives stay "
            "whole"
        )
    return _sample_splits(sorted(images), drives, val_fraction, seed)


def _sample_splits(
    names: Sequence[str], drives: Mapping[str, str], fraction: float, seed: int
) -> tuple[Split, str]:
    parts = divide([drives.get(name, name) for name in names], (1 - fraction, fraction), seed=seed)
    split = {
        split_name: [name for name, part in zip(names, parts, strict=True) if part == index]
        for index, split_name in enumerate(SPLITS)
    }
    unit = (
        "drives"
        if drives
        else "images; their drives are not known, so both splits may contain frames of one drive "
        "and val looks easier"
    )
    return split, f"splits drawn at random (val_fraction {fraction:g}, seed {seed}) by {unit}"


def _add_image(
    writer: CocoWriter, source: Path, image: Path, drive: str | None, classes: Sequence[str]
) -> None:
    image_id = writer.add_image(image, group=drive)
    labels = source / LABELS / f"{image.stem}.txt"

    def skip_line(number: int, error: DataError) -> None:
        writer.report.skip_invalid(labels.name, f"line {number}", error)

    for kitti_object in read_kitti_labels(labels, classes, skip_line):
        line, corners = kitti_object.line, kitti_object.corners
        is_region = kitti_object.type == DONT_CARE
        values = {"occluded": kitti_object.occluded, "truncated": kitti_object.truncated}
        attributes = {key: value for key, value in values.items() if value is not None}
        if not is_region and len(attributes) < len(values):
            writer.report.count_change("occluded or truncated out of range was taken as unknown")
        description = f"{kitti_object.type} (line {line}), corners {corners}"
        box = SourceBox(
            kitti_object.type, corners, description, is_region, None if is_region else attributes
        )
        add_clipped_box(writer, image_id, box, labels.name)
