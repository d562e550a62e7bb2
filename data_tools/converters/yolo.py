"""Converter for YOLO: one text file of boxes or polygons per image, listed by a data.yaml.

    ROOT/data.yaml               names, train, val, test; optional `path` and `nc`; Darknet's
                                 obj.data or the classes.txt of a labeling tool replace it
    ROOT/images/train/NAME.jpg   images, at any depth
    ROOT/labels/train/NAME.txt   one object per line; the last `images` of the image's path is
                                 replaced by `labels`, and a path without `images` has the text
                                 file next to the image

A line is `class x_center y_center width height`, or `class x1 y1 x2 y2 x3 y3 ...`, all relative to
the width and height of the image; classes count from 0. A split is a folder, a list of images
(.txt), or several of them. Published files contain paths of the machine that they were created on.
Shorter and shorter endings of such a path are therefore tried inside ROOT, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from data_tools.converters.yolo_dataset_file import (
    CLASSES_FILE,
    YoloFile,
    find_dataset_file,
    read_yolo_file,
)
from data_tools.reading.image_io import measure_image_size
from data_tools.reading.source_folder import (
    is_file,
    is_folder,
    is_image,
    read_lines,
)
from data_tools.shapes.invalid_shape import InvalidShapeError
from data_tools.shapes.labeled_objects import LabeledObject, add_labeled_object
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.find_images import (
    find_file,
    is_system_name,
    is_system_path,
    walk_files,
)
from resnet_tasks.errors import DataError, format_list
from resnet_tasks.number_formats import Count

ROUNDING = 1e-6
"""Tolerance by which a relative coordinate may leave 0..1: the error of writing six decimals."""
MAX_OUTSIDE = 0.5
"""Distance from 0..1 up to which a coordinate is clipped; farther ones are pixels, or mistakes."""
LABEL_FOLDERS = ("labels", "Labels", "LABELS")
LABEL_SUFFIXES = (".txt", ".TXT", ".Txt")
NOT_LABELS = (CLASSES_FILE,)
"""Other text files that labeling tools write to the folder of the labels."""
MAX_LINE = 1 << 20
"""Maximum number of characters of a line, which are about 50,000 points of a polygon."""
_COMMA = re.compile(r"([0-9]),([0-9])")


def convert_yolo(
    source: Path,
    out: Path,
    *,
    data_yaml: str | None = None,
    missing_labels: Literal["empty", "error"] = "empty",
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every split of a data.yaml to COCO JSON with boxes and, if there are any, polygons.

    The format defines an image without a label file as annotated and without objects. If no image
    has a label file, the split `test` counts as not annotated, and other splits are refused. A
    split counts as annotated with masks if every object has a polygon. Objects without area,
    repeated lines and a few invalid lines are skipped and listed in the summary.

    Args:
        source: Folder that contains the data.yaml, obj.data or classes.txt, or that file.
        out: Folder for those of `train.json`, `val.json` and `test.json` that the YAML names.
        data_yaml: Name of the YAML file; default: data.yaml, else the only YAML
            file, else the only obj.data, else classes.txt.
        missing_labels: Meaning of an image without a label file: `empty`, or `error` for data whose
            tool writes a file for every annotated image.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If a file or folder is missing, or a line of a label file is invalid; the message
            names file and line.
    """
    if is_file(source):
        source, data_yaml = source.parent, source.name
    dataset_file = read_yolo_file(find_dataset_file(source, data_yaml))
    root = dataset_file.paths.root
    splits = {
        split: {image: find_label(image, root) for image in list_images(dataset_file, split)}
        for split in dataset_file.splits
    }
    _require_separate_labels(splits)
    is_annotated = {
        split: _check_presence(split, labels, missing_labels) for split, labels in splits.items()
    }
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in dataset_file.names],
        annotated=("boxes",),
        description="Converted from YOLO, {split}",
        images_root=root,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, image_and_label: tuple[Path, Path]) -> None:
        _add_image(writer, *image_and_label, dataset_file.indices)

    def finish_split(writer: CocoWriter) -> None:
        split = writer.split
        writer.report.warn(*dataset_file.paths.describe_shortened(split))
        if dataset_file.absent_test and split == next(iter(splits)):
            writer.report.warn(
                f"{dataset_file.file.name} names the test split "
                f"{', '.join(map(repr, dataset_file.absent_test))}, which does not exist; there "
                "is no test split"
            )
        writer.declare_outlines()
        if not is_annotated[split]:
            writer.declare_annotated()
            writer.report.skip(
                dataset_file.file.name, f"labels of {split}", "no image has a label file"
            )
        _report_orphans(writer, dataset_file.splits[split], set(splits[split].values()), root)

    pairs = {split: labels.items() for split, labels in splits.items()}
    return dataset.write(track_splits(pairs, progress), add_image, finish_split)


def list_images(dataset_file: YoloFile, split: str) -> list[Path]:
    """Return the images of a split, from its folders and lists.

    Raises:
        DataError: If a listed image is missing, or there is no image.
    """
    root = dataset_file.paths.root
    image_paths: dict[Path, None] = {}
    for location in dataset_file.splits[split]:
        if location.is_dir():
            files = (path for path in walk_files(location) if path.is_file())
            image_paths.update(dict.fromkeys(filter(is_image, files)))
        else:
            lines = (line.strip().replace("\\", "/") for line in read_lines(location))
            names = (
                line for line in lines if line and not is_system_name(PurePosixPath(line).name)
            )
            paths = (dataset_file.paths.find(name, str(location), split) for name in names)
            image_paths.update({path: None for path in paths if not is_system_path(path, root)})
    if not image_paths:
        location_text = ", ".join(map(str, dataset_file.splits[split]))
        raise DataError(
            f"{dataset_file.file}: {split} has no image in {location_text}; fix the path"
        )
    return list(image_paths)


def find_label(image: Path, root: Path) -> Path:
    """Return the label file of an image, in any common spelling; its usual path if it is absent."""
    paths = list(_iterate_label_paths(image, root))
    return next((file for path in paths if (file := find_file(path)) is not None), paths[0])


def _iterate_label_paths(image: Path, root: Path) -> Iterator[Path]:
    """Yield the possible paths of the label file of an image, the usual spelling first.

    Programs on Windows do not distinguish `Labels/A.TXT` from `labels/A.txt`.
    """
    parts = list(image.relative_to(root).parts)
    lower_folders = [part.lower() for part in parts[:-1]]
    position = None
    if "images" in lower_folders:
        position = len(lower_folders) - 1 - lower_folders[::-1].index("images")
    for folder in LABEL_FOLDERS if position is not None else LABEL_FOLDERS[:1]:
        if position is not None:
            parts[position] = folder
        path = root.joinpath(*parts)
        yield from (path.with_suffix(suffix) for suffix in LABEL_SUFFIXES)


def _require_separate_labels(splits: Mapping[str, Mapping[Path, Path]]) -> None:
    """Reject images that share a label file, which can describe only one of them."""
    images_by_label: dict[Path, Path] = {}
    for image, label in (pair for labels in splits.values() for pair in labels.items()):
        other_image = images_by_label.setdefault(label, image)
        if other_image != image and label.is_file():
            raise DataError(
                f"{other_image} and {image} have the same label file {label}, so it is unclear "
                "which of them it describes; keep one of the images, or rename one and give it its "
                "own label file"
            )


def _check_presence(split: str, labels: Mapping[Path, Path], missing_labels: str) -> bool:
    """Return whether the split is annotated at all."""
    missing = [image for image, label in labels.items() if not label.is_file()]
    first = labels[missing[0]] if missing else None
    if len(missing) == len(labels) and split == "test":
        return False
    if len(missing) == len(labels):
        raise DataError(
            f"none of the images of {split} has a label file; the first was "
            f"expected at {first}: put labels there (empty ones where there is no object)"
        )
    if missing and missing_labels == "error":
        raise DataError(
            f"{len(missing)} of {len(labels)} images of {split} have no label file, the first "
            f"{first}; add them, or set missing_labels=empty if absence means no object"
        )
    return True


def _add_image(writer: CocoWriter, image: Path, label: Path, names: Mapping[int, str]) -> None:
    """Add an image with its objects."""
    size = measure_image_size(image)
    image_id = writer.add_image(image, size=size)
    seen_lines: set[tuple[str, tuple[float, ...]]] = set()

    def skip_line(number: int, error: DataError) -> None:
        writer.report.skip_invalid(label.name, f"line {number}", error)

    def add_repair(description: str) -> None:
        writer.report.add_repair(description, label.name)

    lines = read_labels(label, names, skip_line, add_repair) if label.is_file() else ()
    for number, name, coordinates in lines:
        if (name, coordinates) in seen_lines:
            writer.report.skip(label.name, f"{name} (line {number})", "it repeats an earlier line")
            continue
        seen_lines.add((name, coordinates))
        is_inside = all(-ROUNDING <= coordinate <= 1 + ROUNDING for coordinate in coordinates)
        if len(coordinates) > 4 and not is_inside:
            writer.report.count_change("coordinates outside the image were clipped")
        labeled_object = _build_labeled_object(name, f"line {number}", coordinates, size)
        add_labeled_object(writer, image_id, labeled_object, size, label.name)


def _build_labeled_object(
    name: str, description: str, coordinates: tuple[float, ...], size: tuple[int, int]
) -> LabeledObject:
    height, width = size
    if len(coordinates) > 4:
        sides = (width, height) * (len(coordinates) // 2)
        clipped = (min(max(coordinate, 0.0), 1.0) for coordinate in coordinates)
        polygon = tuple(coordinate * side for coordinate, side in zip(clipped, sides, strict=True))
        return LabeledObject(name, description, polygons=(polygon,))
    x, y, w, h = coordinates
    corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    return LabeledObject(name, description, boxes=(corners,))


def read_labels(
    file: Path,
    names: Mapping[int, str],
    skip_line: Callable[[int, DataError], None],
    add_repair: Callable[[str], None],
) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    """Yield (line number, class, coordinates) for every line of a label file.

    The coordinates are relative to the image: 4 of a box, or 6 and more of a polygon.

    Args:
        file: Path of the label file.
        names: Index in the label files -> class name.
        skip_line: Function called with the number of a line with an invalid number of values or an
            invalid value, and the error that names file and line.
        add_repair: Function called with the description of a fault that was repaired.

    Raises:
        DataError: If a class is unknown.
    """
    for number, line in enumerate(read_lines(file), start=1):
        if len(line) > MAX_LINE:
            skip_line(number, _make_length_error(file, number, len(line)))
            continue
        if words := line.split():
            # Spaces separate the values, so that a comma is a decimal comma or superfluous.
            points = [_COMMA.sub(r"\1.\2", word.removesuffix(",")) for word in words]
            try:
                parsed = _parse_object(points, f"{file}, line {number}", names)
            except InvalidShapeError as error:
                skip_line(number, error)
                continue
            if points != words:
                add_repair(
                    "commas in numbers are read as decimal points, commas after them ignored"
                )
            yield number, *parsed


def _make_length_error(file: Path, number: int, length: int) -> InvalidShapeError:
    return InvalidShapeError(
        f"{file}, line {number} has {length:,} characters, more than the limit of {MAX_LINE:,}"
    )


def _parse_object(
    words: Sequence[str], location: str, names: Mapping[int, str]
) -> tuple[str, tuple[float, ...]]:
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        hint = "; with a confidence it is a prediction, not a label" if len(words) == 6 else ""
        raise InvalidShapeError(
            f"{location} has {Count(len(words)):value}; a box has 5 (class, x_center, y_center, "
            f"width, height), a polygon 7, 9, 11, ... (class and three or more points){hint}"
        )
    try:
        index, *coordinates = map(float, words)
    except ValueError:
        raise InvalidShapeError(
            f"{location} is {' '.join(words)[:60]!r}; it should contain numbers"
        ) from None
    if index not in names:
        known_classes = format_list([f"{i} {name}" for i, name in names.items()], limit=12)
        raise DataError(
            f"{location} has the class {words[0]}; the classes are {known_classes}: correct the "
            "line, or add the class to the names"
        )
    if len(coordinates) == 4 and min(coordinates[2:]) < -ROUNDING:
        raise InvalidShapeError(f"{location} has a negative width or height: {' '.join(words)}")
    for word, coordinate in zip(words[1:], coordinates, strict=True):
        if not -MAX_OUTSIDE <= coordinate <= 1 + MAX_OUTSIDE:
            raise InvalidShapeError(
                f"{location} has the value {word}; all values but the class are fractions of "
                "the image's width and height, 0 to 1: divide pixel coordinates by these"
            )
    return names[int(index)], tuple(coordinates)


def _report_orphans(
    writer: CocoWriter, locations: Sequence[Path], used_label_files: set[Path], root: Path
) -> None:
    # A file system that ignores case finds a file under another spelling.
    used_names = {str(file).lower() for file in used_label_files}
    for location in locations:
        folders = (path.parent for path in _iterate_label_paths(location / "any", root))
        folder = next(filter(is_folder, folders), None)
        if not location.is_dir() or folder is None:
            continue
        for file in walk_files(folder):
            is_label = file.suffix.lower() == ".txt" and file.name not in NOT_LABELS
            if is_label and str(file).lower() not in used_names:
                name = file.relative_to(root).as_posix()
                writer.report.skip(name, "all its objects", "there is no image of that name")
