"""Converter for LabelMe: one JSON file of drawn shapes per image.

    ROOT/NAME.json        shapes; `imagePath` names the image, relative to the JSON
    ROOT/NAME.jpg
    ROOT/train/NAME.json  folders called train, val and test are splits
    ROOT/train.txt        or lists: names of JSON files without suffix, one per line

Without folders or lists of splits, all images form the split `train`. Shapes of one image with the
same label and the same `group_id` are parts of one object. The image inside the JSON (`imageData`)
is never used.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from data_tools.reading.class_names import collect_class_names
from data_tools.reading.image_io import READ_ERRORS, measure_stated_size
from data_tools.reading.name_lists import read_names
from data_tools.reading.source_folder import (
    IMAGE_SUFFIXES,
    SPLIT_ALIASES,
    SPLITS,
    find_split_lists,
    format_listing,
    is_file,
    make_absolute,
    require_parts,
)
from data_tools.shapes.invalid_shape import InvalidShapeError
from data_tools.shapes.labeled_objects import LabeledObject, PlacedMask, add_labeled_image
from data_tools.shapes.outlines import ellipse_to_polygon, is_point
from data_tools.shapes.relative_coordinates import (
    get_bounding_boxes,
    require_coordinate_unit,
    scale_object,
)
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary, add_unused_images
from resnet_tasks.data.images.find_images import find_file, walk_files
from resnet_tasks.data.images.image_files import open_image
from resnet_tasks.data.images.lossy_formats import find_lossy_format
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import read_json
from resnet_tasks.number_formats import Count

NOT_CONVERTED = ("point", "points", "line", "linestrip")
"""Shapes without an area."""
NUM_POINTS = {"rectangle": (2, 4), "circle": (2,), "mask": (2,)}
"""Allowed numbers of points by kind of shape; other shapes are polygons of three or more."""


@dataclass(frozen=True)
class LabelMeFile:
    """One annotation file.

    Attributes:
        file: Path of the annotation file.
        image: Path of the annotated image.
        size: (height, width) stated in the file; None if it states no size.
        objects: Drawn objects, in order of their first shape.
        skipped: (shape, reason) of the shapes that are not converted.
        invalid: (shape, error) of the shapes that are invalid.
        has_numeric_labels: Whether a label is a number, which was read as text.
    """

    file: Path
    image: Path
    size: tuple[int, int] | None
    objects: tuple[LabeledObject, ...]
    skipped: tuple[tuple[str, str], ...]
    invalid: tuple[tuple[str, DataError], ...]
    has_numeric_labels: bool = False


def convert_labelme(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    relative: bool = False,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert JSON files of LabelMe to COCO JSON with boxes and outlines.

    Polygons, circles (as polygons) and masks become outlines, and rectangles become boxes. Points,
    lines and a few invalid shapes are skipped and listed in the summary. A split counts as
    annotated with masks if every object has an outline.

    Args:
        source: Folder that contains the JSON files.
        out: Folder for one of `train.json`, `val.json`, `test.json` per split.
        classes: Names in order of their ids; default: all names that occur, sorted.
        relative: Whether coordinates are fractions of the image size instead of pixels.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a file, image, shape or class is missing or invalid; the message names it.
    """
    splits = {
        split: [read_labelme_file(file, source) for file in files]
        for split, files in list_splits(source).items()
    }
    labels = (
        (labeled_object.label, file.file)
        for files in splits.values()
        for file in files
        for labeled_object in file.objects
    )
    class_names = collect_class_names(labels, classes)
    errors = [error for files in splits.values() for file in files for _, error in file.invalid]
    if not class_names and errors:
        raise errors[0]
    if not class_names:
        raise DataError(
            "no file has a shape with an area, so there are no classes; set the option classes"
        )
    for split, files in splits.items():
        boxes = get_bounding_boxes(entry for file in files for entry in file.objects)
        require_coordinate_unit(boxes, f"{source}, {split}", relative=relative)
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in class_names],
        annotated=("boxes",),
        description="Converted from LabelMe, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )
    summaries = dataset.write(
        track_splits(splits, progress),
        partial(_add_image, relative=relative),
        CocoWriter.declare_outlines,
    )
    return add_unused_images(summaries, source, "", "no JSON file describes them")


def list_splits(source: Path) -> dict[str, list[Path]]:
    """Return the JSON files of every split, by the lists or the folders of the splits.

    Raises:
        DataError: If there is no JSON file, a listed one is missing, or one is in no split.
    """
    require_parts(source, ())
    annotation_files = [file for file in walk_files(source) if file.suffix.lower() == ".json"]
    if not annotation_files:
        raise DataError(
            f"{source} should contain JSON files of LabelMe, but contains "
            f"{format_listing(source)}: pass the folder that contains the JSON files"
        )
    lists = find_split_lists(source)
    if not lists:
        return _group_by_folder(source, annotation_files)
    known = {file.relative_to(source).with_suffix("").as_posix(): file for file in annotation_files}
    splits = {}
    for split, list_file in lists.items():
        names = read_names(list_file, known)
        splits[split] = [known.get(name, source / f"{name}.json") for name in names]
        missing = [file for file in splits[split] if not file.is_file()]
        if missing:
            raise DataError(
                f"{list_file} lists {Count(len(missing)):name} without a file, the first "
                f"{missing[0]}; add the files or remove the names from the list"
            )
    return splits


def _group_by_folder(source: Path, annotation_files: Sequence[Path]) -> dict[str, list[Path]]:
    files_by_folder: dict[str, list[Path]] = {}
    for file in annotation_files:
        top = file.relative_to(source).parts[0].lower() if file.parent != source else ""
        files_by_folder.setdefault(SPLIT_ALIASES.get(top, top), []).append(file)
    unassigned = [
        file for name, files in files_by_folder.items() if name not in SPLITS for file in files
    ]
    if len(unassigned) == len(annotation_files):
        return {"train": list(annotation_files)}
    if unassigned:
        split_names = ", ".join(sorted(set(files_by_folder) & set(SPLITS)))
        raise DataError(
            f"{source} has folders for the splits {split_names} and "
            f"{Count(len(unassigned)):JSON file} outside of them, the first "
            f"{unassigned[0]}; move these files into a split, or list the splits in train.txt "
            "and val.txt"
        )
    return {split: files_by_folder[split] for split in SPLITS if split in files_by_folder}


def read_labelme_file(file: Path, root: Path) -> LabelMeFile:
    """Read one annotation file.

    Args:
        file: Path of the JSON file.
        root: Folder that must contain its image.

    Raises:
        DataError: If the file is not JSON of LabelMe, a shape has no label, or the image is
            missing.
    """
    content = read_json(file)
    # Some tools write null for an image without shapes.
    if isinstance(content, dict) and content.get("shapes", []) is None and "imagePath" in content:
        content["shapes"] = []
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(
            f"{file} has no list of shapes, so LabelMe did not write it; remove it from the folder"
        )
    objects: dict[object, LabeledObject] = {}
    skipped = []
    invalid: list[tuple[str, DataError]] = []
    for number, raw in enumerate(content["shapes"]):
        location = f"shape {number} of {file}"
        try:
            label, kind, points = _parse_shape(raw, location)
            if kind in NOT_CONVERTED:
                skipped.append((f"{label} (shape {number})", f"a {kind} has no area"))
                continue
            group = raw.get("group_id")
            key = number if group is None else (label, str(group))
            objects[key] = _add_part(objects.get(key), label, number, kind, points, raw, location)
        except InvalidShapeError as error:
            invalid.append((f"{_parse_label(raw, location)} (shape {number})", error))
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    image = _find_image(file, root, content.get("imagePath"))
    return LabelMeFile(
        file,
        image,
        size,
        tuple(objects.values()),
        tuple(skipped),
        tuple(invalid),
        any(_is_finite(shape["label"]) for shape in content["shapes"]),
    )


def _parse_shape(raw: Any, location: str) -> tuple[str, str, list[list[float]]]:
    """Return the (label, kind, points) of a shape."""
    label = _parse_label(raw, location)
    kind = raw.get("shape_type") or "polygon"
    points = raw.get("points")
    if kind not in (*NOT_CONVERTED, *NUM_POINTS, "polygon"):
        raise InvalidShapeError(
            f"{location} ({label}) is a {kind!r}; supported shapes: polygon, "
            f"{', '.join(NUM_POINTS)}, {', '.join(NOT_CONVERTED)}"
        )
    if not isinstance(points, list) or not all(map(is_point, points)):
        raise InvalidShapeError(
            f"{location} ({label}) has points that are not pairs of numbers [x, y] in pixels"
        )
    counts = NUM_POINTS.get(kind)
    if kind not in NOT_CONVERTED and (
        len(points) not in counts if counts is not None else len(points) < 3
    ):
        requirement = " or ".join(map(str, counts)) if counts is not None else "three or more"
        raise InvalidShapeError(
            f"{location} ({label}) is a {kind} of {Count(len(points)):point}; it needs "
            f"{requirement}"
        )
    return label, kind, points


def _parse_label(raw: Any, location: str) -> str:
    """Return the label of a shape; a number is read as text, so that 3 and "3" are one class."""
    label = raw.get("label") if isinstance(raw, dict) else None
    if _is_finite(label):
        return str(int(label) if isinstance(label, float) and label.is_integer() else label)
    if not isinstance(label, str) or not label:
        got = "no label" if label in (None, "") else f"the label {label!r:.40}"
        raise DataError(f"{location} has {got}; every shape needs the name of its class as text")
    return label


def _is_finite(label: object) -> TypeGuard[float]:
    return isinstance(label, int | float) and not isinstance(label, bool) and abs(label) < math.inf


def _add_part(
    labeled_object: LabeledObject | None,
    label: str,
    number: int,
    kind: str,
    points: list[list[float]],
    raw: Mapping[str, Any],
    location: str,
) -> LabeledObject:
    """Return the object with one more shape."""
    boxes, polygons, masks = (
        (labeled_object.boxes, labeled_object.polygons, labeled_object.masks)
        if labeled_object
        else ((), (), ())
    )
    flat = [value for point in points for value in point]
    if kind == "rectangle":
        xs, ys = flat[0::2], flat[1::2]
        boxes = (*boxes, (min(xs), min(ys), max(xs), max(ys)))
    elif kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        polygons = (*polygons, ellipse_to_polygon(x, y, radius, radius))
    elif kind == "mask":
        masks = (*masks, _decode_mask(raw.get("mask"), points[0], location))
    else:
        polygons = (*polygons, flat)
    description = f"{labeled_object.description}, {number}" if labeled_object else f"shape {number}"
    return LabeledObject(label, description, boxes, polygons, masks)


def _decode_mask(text: Any, corner: Sequence[float], location: str) -> PlacedMask:
    """Decode a PNG in base64 and place it at its upper left corner in the image."""
    try:
        stream = io.BytesIO(base64.b64decode(text, validate=True))
        if (lossy_format := find_lossy_format(stream)) is not None:
            raise ValueError(f"it is {lossy_format}")
        with open_image(stream) as mask_image:
            pixels = np.asarray(mask_image)
    except (binascii.Error, *READ_ERRORS) as error:
        raise InvalidShapeError(
            f"{location} has a mask that is not a PNG in base64 ({error})"
        ) from None
    if pixels.ndim != 2:
        raise InvalidShapeError(
            f"{location} has a mask with {Count(pixels.shape[2]):channel}; it needs one"
        )
    return PlacedMask.from_pixels(round(corner[0]), round(corner[1]), pixels > 0)


def _find_image(file: Path, root: Path, name: Any) -> Path:
    """Return the image of a JSON file: the named one inside `root`, else the one with its stem."""
    if isinstance(name, str) and name:
        path = make_absolute(file.parent / name.replace("\\", "/"))
        if path.is_relative_to(make_absolute(root)) and (image := find_file(path)) is not None:
            return image
    siblings = _find_sibling_images(file)
    if len(siblings) > 1:
        raise DataError(f"{file} may describe {siblings[0]} or {siblings[1]}; keep one of them")
    if not siblings:
        raise DataError(
            f"{file} describes the image {name!r}, which does not exist inside {root}, and "
            f"{file.stem} with any of {', '.join(IMAGE_SUFFIXES)} is not next to the file either; "
            "add the image"
        )
    return siblings[0]


def _find_sibling_images(file: Path) -> list[Path]:
    """Return the images with the stem of a file and a suffix in a common spelling, in its folder.

    The folder is not listed, because that would be repeated for each of its files.
    """
    suffixes = [
        form for suffix in IMAGE_SUFFIXES for form in (suffix, suffix.upper(), suffix.title())
    ]
    candidates = (file.with_name(f"{file.stem}{suffix}") for suffix in suffixes)
    # A case-insensitive file system finds the same file under several spellings.
    return list({path.stat().st_ino: path for path in filter(is_file, candidates)}.values())


def _add_image(writer: CocoWriter, label_file: LabelMeFile, *, relative: bool) -> None:
    """Add an image with its objects."""
    image, file = label_file.image, label_file.file
    statement = f"{file} describes an image of size"
    size = measure_stated_size(image, label_file.size, statement, "its shapes would be misplaced")
    objects = label_file.objects
    if relative:
        objects = tuple(scale_object(labeled_object, size) for labeled_object in objects)
    if label_file.has_numeric_labels:
        writer.report.add_repair("labels that are numbers were read as text", file.name)
    add_labeled_image(
        writer,
        image,
        size,
        objects,
        label_file.skipped,
        file.name,
        invalid=label_file.invalid,
    )
