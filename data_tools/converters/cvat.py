"""CVAT's own XML, for images and for video, version 1.1.

    ROOT/annotations.xml               shapes of all images, or tracks over the frames of a video
    ROOT/images/NAME.jpg               images; also ROOT/NAME.jpg, and images/SUBSET/NAME.jpg as
                                       projects are exported
    ROOT/images/frame_000000.png       the frames of a video

A subset called Train, Validation or Test is the split of that name, and so is `default` train.
Images without shapes were looked at and hold nothing: the XML cannot say otherwise.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from data_tools.reading.image_io import measure_image_size
from data_tools.reading.safe_xml import read_xml
from data_tools.reading.source_folder import (
    IMAGE_SUFFIXES,
    format_listing,
    is_file,
    require_parts,
)
from data_tools.shapes.labeled_objects import LabeledObject, PlacedMask, add_labeled_object
from data_tools.shapes.outlines import ellipse_to_polygon
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.progress import Progress, ProgressCounter
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.errors import DataError

FILE = "annotations.xml"
SPLITS = {
    **dict.fromkeys(("", "default", "train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Subset in small letters -> split."""
NOT_CONVERTED = {
    "polyline": "a line has no area",
    "points": "points have no area",
    "skeleton": "points have no area",
    "cuboid": "cuboids are not converted",
    "tag": "tags of whole images are not converted",
}
SHAPES = ("box", "polygon", "mask", "ellipse")
MAX_DIGITS = 12
"""Of whole numbers: frames and pixels are never more."""
POINT_LABELS = ("points", "polyline", "skeleton", "tag", "cuboid")
"""Types of labels whose objects are never converted."""


@dataclass
class CvatImage:
    """One image or frame.

    Attributes:
        name: As the XML has it; for a frame, its number.
        split: Of its subset.
        subset: As the XML has it, which is the folder of its image in exports of projects.
        size: (height, width) that the XML states.
        group: The video that it is a frame of.
        objects: What is drawn on it.
        skipped: (object, why) of what is not converted.
    """

    name: str
    split: str
    size: tuple[int, int]
    group: str | None = None
    objects: list[LabeledObject] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    subset: str = ""


def convert_cvat(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Converts an export of CVAT to COCO JSON with boxes and outlines.

    Boxes, polygons, masks and ellipses are converted; a turned box becomes the polygon of its
    corners. Lines, points, skeletons, cuboids and tags are left out and listed in the summary. The
    frames of a video are one group. A split counts as annotated with masks where every object has
    an outline.

    Args:
        source: Folder that holds `annotations.xml` and the images.
        out: Folder for `train.json`, `val.json`, `test.json`, as far as there are such subsets.
        classes: Names in order of their ids; default: the labels of the task that can have an area,
            in its order.
        copy_images: Copy the images beside the JSON instead of referring to them.
        license_name: License of the data, for the JSON.
        progress: Called with (done, total) after each image.

    Returns:
        What was written, by split.

    Raises:
        DataError: If a file or image is missing, or a shape, label or subset is wrong.
    """
    require_parts(source, (FILE,))
    root = read_xml(source / FILE)
    images, labels = read_cvat(root, source / FILE)
    class_names = _resolve_classes(images, labels if classes is None else classes, source / FILE)
    files = _CvatImageFinder(source)
    splits: defaultdict[str, list[CvatImage]] = defaultdict(list)
    for image in images:
        splits[image.split].append(image)
    count = ProgressCounter(len(images), progress)
    summaries = []
    for split in sorted(splits, key=("train", "val", "test").index):
        writer = CocoWriter(
            out,
            split,
            [CategorySpec(name) for name in class_names],
            annotated=("boxes",),
            images_root=source,
            copy_images=copy_images,
            description=f"Converted from CVAT, {split}",
            license_name=license_name,
        )
        for image in count.track(splits[split]):
            _add_image(writer, image, files.find(image), source / FILE)
        writer.declare_outlines()
        summaries.append(writer.write())
    return tuple(summaries)


def read_cvat(root: Element, file: Path) -> tuple[list[CvatImage], list[str]]:
    """Images with their objects, and the labels of the task.

    Args:
        root: Of the XML.
        file: Where it lies, for messages.

    Raises:
        DataError: If it is no annotation of CVAT, or a shape or subset is wrong.
    """
    if root.tag != "annotations" or (root.findtext("version") or "").strip() != "1.1":
        raise DataError(
            f"{file} is no `annotations` of version 1.1, as CVAT exports 'CVAT for images "
            "1.1' and 'CVAT for video 1.1'; export it so"
        )
    labels = [
        (label_element.findtext("name") or "").strip()
        for label_element in root.iter("label")
        if label_element.find("parent") is None
        and (label_element.findtext("type") or "") not in POINT_LABELS
    ]
    if root.find("track") is not None:
        return _read_frames(root, file), labels
    images = []
    for element in root.iter("image"):
        location = f"{file}: image {element.get('name')!r}"
        name = element.get("name")
        if not name:
            raise DataError(f"{file}: image {element.get('id')!r} has no name")
        size = (
            _parse_integer(element, "height", location),
            _parse_integer(element, "width", location),
        )
        subset = (element.get("subset") or "").strip()
        image = CvatImage(name, _parse_split(subset, location), size, subset=subset)
        for number, shape in enumerate(element):
            _add_shape(image, shape, shape.get("label"), f"shape {number}", location)
        images.append(image)
    if not images:
        raise DataError(f"{file} lists no image and no track; was the task empty?")
    return images, labels


def _read_frames(root: Element, file: Path) -> list[CvatImage]:
    """Every frame of a video, also those without objects."""
    count = root.findtext("meta/task/size") or root.findtext("meta/job/size") or ""
    original = next(root.iter("original_size"), None)
    first = root.findtext("meta/task/start_frame") or "0"
    sides = []
    if original is not None:
        sides = [original.findtext(side) or "" for side in ("height", "width")]
    numbers = [count, first, *sides]
    if len(sides) != 2 or not all(n.isdecimal() and len(n) <= 7 for n in numbers):
        raise DataError(
            f"{file} has tracks; its meta should tell size, start_frame and original_size (height "
            f"and width) in whole numbers below ten million, got {numbers}"
        )
    step = _read_frame_step(root, file)
    size = (int(sides[0]), int(sides[1]))
    task = (root.findtext("meta/task/name") or file.parent.name).strip()
    split = _parse_split(root.findtext("meta/task/subset") or "", str(file))
    frames = {
        number: CvatImage(str(number), split, size, group=task)
        for number in range(int(first), int(first) + int(count) * step, step)
    }
    for track in root.iter("track"):
        for shape in track:
            location = f"{file}: track {track.get('id')}"
            number = _parse_integer(shape, "frame", location)
            if shape.get("outside") == "1":
                continue
            if number not in frames:
                raise DataError(f"{location} is on frame {number}; the task has {count} frames")
            track_name = f"track {track.get('id')}"
            _add_shape(
                frames[number], shape, track.get("label"), track_name, f"{location}, frame {number}"
            )
    return list(frames.values())


def _read_frame_step(root: Element, file: Path) -> int:
    """Of how many frames of the video the task has one: `step=5` in its filter."""
    text = (root.findtext("meta/task/frame_filter") or "").strip() or "step=1"
    step = text.removeprefix("step=").strip()
    if not (step.isdecimal() and len(step) <= 7 and int(step)):
        raise DataError(f"{file} has the frame_filter {text!r}; it is step=N, N a whole number")
    return int(step)


def _parse_split(subset: str, location: str) -> str:
    if subset.strip().lower() not in SPLITS:
        raise DataError(
            f"{location} is in the subset {subset!r}; known are {', '.join(filter(None, SPLITS))}: "
            "rename it in CVAT or in the file"
        )
    return SPLITS[subset.strip().lower()]


def _add_shape(
    image: CvatImage, shape: Element, label: str | None, shape_name: str, location: str
) -> None:
    if not label:
        raise DataError(f"{location}, {shape_name} has no label; every shape needs its class")
    if shape.tag in NOT_CONVERTED:
        image.skipped.append((f"{label} ({shape_name})", NOT_CONVERTED[shape.tag]))
        return
    if shape.tag not in SHAPES:
        known_tags = ", ".join((*SHAPES, *NOT_CONVERTED))
        raise DataError(f"{location}, {shape_name} is a {shape.tag!r}; known are {known_tags}")
    location = f"{location}, {shape_name} ({label})"
    attributes = {"occluded": 1} if shape.get("occluded") == "1" else {}
    turn = _parse_number(shape, "rotation", location) if shape.get("rotation") else 0.0
    boxes: list[tuple[float, ...]] = []
    polygons: list[list[float]] = []
    masks: list[PlacedMask] = []
    if shape.tag == "box":
        x1, y1, x2, y2 = (
            _parse_number(shape, key, location) for key in ("xtl", "ytl", "xbr", "ybr")
        )
        if turn:
            polygons.append(_rotate_points((x1, y1, x2, y1, x2, y2, x1, y2), turn))
        else:
            boxes.append((x1, y1, x2, y2))
    elif shape.tag == "ellipse":
        x, y, *radii = (_parse_number(shape, key, location) for key in ("cx", "cy", "rx", "ry"))
        polygons.append(_rotate_points(ellipse_to_polygon(x, y, *radii), turn))
    elif shape.tag == "polygon":
        polygons.append(_parse_points(shape, location))
    else:
        masks.append(_parse_mask(shape, image.size, location))
    parts = (tuple(boxes), tuple(polygons), tuple(masks))
    image.objects.append(LabeledObject(label, shape_name, *parts, attributes))


def _parse_number(element: Element, key: str, location: str) -> float:
    try:
        value = float(element.get(key, ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{location} has {key}={element.get(key)!r}; it must be a number")
    return value


def _parse_integer(element: Element, key: str, location: str) -> int:
    text = element.get(key, "")
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise DataError(f"{location} has {key}={element.get(key)!r}; it must be a whole number")
    return int(text)


def _parse_points(shape: Element, location: str) -> list[float]:
    """`x0,y0;x1,y1;...` as a flat list."""
    text = shape.get("points", "")
    try:
        pairs = [tuple(map(float, pair.split(","))) for pair in text.strip(";").split(";")]
    except ValueError:
        pairs = []
    if len(pairs) < 3 or any(len(pair) != 2 or not all(map(math.isfinite, pair)) for pair in pairs):
        raise DataError(
            f"{location} has points={text[:40]!r}; a polygon has three or more, as "
            "x0,y0;x1,y1;x2,y2"
        )
    return [value for pair in pairs for value in pair]


def _rotate_points(points: Sequence[float], degrees: float) -> list[float]:
    """Flat points turned clockwise (as seen) around the middle of their box."""
    xy = np.reshape(points, (-1, 2))
    middle = (xy.min(axis=0) + xy.max(axis=0)) / 2
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotated = (xy - middle) @ np.array([[cosine, sine], [-sine, cosine]]) + middle
    flat: list[float] = rotated.ravel().tolist()
    return flat


def _parse_mask(shape: Element, size: tuple[int, int], location: str) -> PlacedMask:
    """Run lengths along the rows of a part of the image, background first."""
    left, top, width, height = (
        _parse_integer(shape, key, location) for key in ("left", "top", "width", "height")
    )
    words = [word.strip() for word in shape.get("rle", "").split(",")]
    runs = [int(word) for word in words if word.isdecimal() and len(word) <= MAX_DIGITS]
    if height > size[0] or width > size[1]:
        raise DataError(
            f"{location} is {width} x {height} pixels (width x height), larger than its image of "
            f"{size[1]} x {size[0]}"
        )
    if len(runs) != len(words) or sum(runs) != width * height:
        raise DataError(
            f"{location} has an rle that does not fill its {width} x {height} pixels; it is whole "
            "numbers with commas between, whose sum is width times height"
        )
    return PlacedMask(left, top, (height, width), np.array(runs, dtype=np.int64))


class _CvatImageFinder:
    """Finds images by the names that the XML has."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._frames: dict[int, Path] | None = None

    def find(self, image: CvatImage) -> Path:
        if image.group is not None:
            return self._find_frame(int(image.name))
        name = image.name.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(
                f"{self._source / FILE} names the image {image.name!r}, which leads out of the "
                "folder; mend the name"
            )
        subset_paths = [self._source / "images" / subset / name for subset in (image.subset, "")]
        image_path = next(filter(is_file, (*subset_paths, self._source / name)), None)
        if image_path is not None:
            return image_path
        other_paths = sorted((self._source / "images").glob(f"*/{_escape_glob(name)}"))
        if len(other_paths) > 1:
            raise DataError(
                f"{self._source / FILE} names the image {name}, which may be {other_paths[0]} or "
                f"{other_paths[1]}; keep one, or put them into folders named by subset"
            )
        if not other_paths:
            raise DataError(
                f"{self._source / FILE} names the image {name}, but neither images/ nor the "
                f"folder has it; there is {format_listing(self._source)}: export with images, or "
                "put them "
                "there"
            )
        return other_paths[0]

    def _find_frame(self, number: int) -> Path:
        if self._frames is None:
            self._frames = dict(_list_frames(self._source / "images"))
        if number not in self._frames:
            raise DataError(
                f"{self._source / 'images'} has no frame_{number:06d} with any of "
                f"{', '.join(IMAGE_SUFFIXES)}; export the video's frames with the annotations"
            )
        return self._frames[number]


def _escape_glob(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _list_frames(folder: Path) -> Iterator[tuple[int, Path]]:
    for file in sorted(folder.glob("frame_*")):
        number = file.stem.removeprefix("frame_")
        if file.suffix.lower() in IMAGE_SUFFIXES and number.isdecimal():
            yield int(number), file


def _resolve_classes(images: Sequence[CvatImage], labels: Sequence[str], file: Path) -> list[str]:
    used_labels = {labeled_object.label for image in images for labeled_object in image.objects}
    class_names = list(dict.fromkeys(labels)) or sorted(used_labels)
    unknown = sorted(used_labels - set(class_names))
    if unknown:
        raise DataError(
            f"{file} has an object of class {unknown[0]!r}; the classes are "
            f"{', '.join(class_names)}: "
            "add it to them or correct the file"
        )
    if not class_names:
        raise DataError(
            f"{file} has no label whose objects have an area; there is nothing to teach"
        )
    return class_names


def _add_image(writer: CocoWriter, image: CvatImage, path: Path, file: Path) -> None:
    """Adds an image with its objects."""
    size = measure_image_size(path)
    if image.size != size:
        raise DataError(
            f"{file}: {image.name} has the size {image.size} (height, width), but {path} has "
            f"{size}; its shapes would be misplaced, so put the original image there"
        )
    image_id = writer.add_image(path, size=size, group=image.group)
    for description, reason in image.skipped:
        writer.skip(image.name, description, reason)
    for labeled_object in image.objects:
        add_labeled_object(writer, image_id, labeled_object, size, image.name)
