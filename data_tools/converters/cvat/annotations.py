"""Reader of CVAT's `annotations.xml`: images or tracks of a video, and the labels of the task."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from data_tools.converters.cvat.images import CvatImage
from data_tools.converters.cvat.shapes import add_shape, parse_integer
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

SPLITS = {
    **dict.fromkeys(("", "default", "train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Lower-case name of a subset -> split."""
POINT_LABELS = ("points", "polyline", "skeleton", "tag", "cuboid")
"""Types of labels whose objects are never converted."""


def is_cvat(root: Element) -> bool:
    """Return whether an XML is an export of CVAT, version 1.1."""
    return root.tag == "annotations" and (root.findtext("version") or "").strip() == "1.1"


def read_cvat(root: Element, file: Path) -> tuple[list[CvatImage], list[str]]:
    """Return the images with their objects, and the labels of the task.

    Args:
        root: Root element of the XML.
        file: Path of the XML, for error messages.

    Raises:
        DataError: If the file is not an annotation of CVAT, or a label or subset is invalid.
    """
    if not is_cvat(root):
        raise DataError(
            f"{file} is not an `annotations` file of version 1.1; export it from CVAT as "
            "'CVAT for images 1.1' or 'CVAT for video 1.1'"
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
            parse_integer(element, "height", location),
            parse_integer(element, "width", location),
        )
        subset = (element.get("subset") or "").strip()
        image = CvatImage(name, _parse_split(subset, location), size, subset=subset)
        for number, shape in enumerate(element):
            add_shape(image, shape, shape.get("label"), f"shape {number}", location)
        images.append(image)
    if not images:
        raise DataError(f"{file} lists no image and no track; was the task empty?")
    return images, labels


def _read_frames(root: Element, file: Path) -> list[CvatImage]:
    """Return every frame of a video, including frames without objects."""
    count = root.findtext("meta/task/size") or root.findtext("meta/job/size") or ""
    original = next(root.iter("original_size"), None)
    first = root.findtext("meta/task/start_frame") or "0"
    sides = []
    if original is not None:
        sides = [original.findtext(side) or "" for side in ("height", "width")]
    numbers = [count, first, *sides]
    if len(sides) != 2 or not all(n.isdecimal() and len(n) <= 7 for n in numbers):
        raise DataError(
            f"{file} has tracks; its meta should state size, start_frame and original_size (height "
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
            number = parse_integer(shape, "frame", location)
            if shape.get("outside") == "1":
                continue
            if number not in frames:
                raise DataError(
                    f"{location} is on frame {number}; the task has {Count(count):frame}"
                )
            track_name = f"track {track.get('id')}"
            add_shape(
                frames[number], shape, track.get("label"), track_name, f"{location}, frame {number}"
            )
    return list(frames.values())


def _read_frame_step(root: Element, file: Path) -> int:
    """Return N if the task contains every N-th frame of the video (`step=N` in its filter)."""
    text = (root.findtext("meta/task/frame_filter") or "").strip() or "step=1"
    step = text.removeprefix("step=").strip()
    if not (step.isdecimal() and len(step) <= 7 and int(step)):
        raise DataError(
            f"{file} has the frame_filter {text!r}; it must be step=N with a whole number N"
        )
    return int(step)


def _parse_split(subset: str, location: str) -> str:
    if subset.strip().lower() not in SPLITS:
        raise DataError(
            f"{location} is in the subset {subset!r}; allowed: {', '.join(filter(None, SPLITS))}; "
            "rename the subset in CVAT or in the file"
        )
    return SPLITS[subset.strip().lower()]
