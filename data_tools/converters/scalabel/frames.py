"""Reader of the frames in Scalabel's label files: names, sizes and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_tools.converters.scalabel.per_image import iterate_image_files
from data_tools.reading.json_streaming import stream_objects_with_progress
from resnet_tasks.errors import DataError


@dataclass(frozen=True)
class ScalabelFrame:
    """One image of a label file.

    Attributes:
        location: File, number and name of the frame, for error messages.
        name: Relative path of the image.
        labels: Pairs of (location, label as parsed from JSON).
        group: Video that contains the frame; None for single images.
        attributes: Attributes of the image.
        size: (height, width) in pixels; None if the file does not state it.
        fraction: Fraction of the file up to the end of the frame, above 0 and at most 1.
        is_annotated: Whether every kind of label was annotated in the image.
    """

    location: str
    name: str
    labels: list[tuple[str, dict[str, Any]]]
    group: str | None
    attributes: Mapping[str, Any]
    size: tuple[int, int] | None
    fraction: float
    is_annotated: bool = True


def read_frames(file: Path) -> Iterator[ScalabelFrame]:
    """Yield the frames of a label file, or of a folder with one file per image, one by one.

    Raises:
        DataError: If a frame has no valid name, labels or size, or a label has no category.
    """
    if file.is_dir():
        for image_file, raw, fraction in iterate_image_files(file):
            yield _parse_frame(raw, str(image_file), fraction)
        return
    for number, (raw, fraction) in enumerate(stream_objects_with_progress(file, "frames")):
        if "objects" in raw and "name" not in raw:
            raise DataError(
                f"{file} is the label file of one image (`objects` in its frame), as in BDD100K of "
                f"2018; set `labels` to their folder {file.parent}"
            )
        yield _parse_frame(raw, f"{file}, frame {number} ({raw.get('name')})", fraction)


def _parse_frame(raw: Mapping[str, Any], location: str, fraction: float) -> ScalabelFrame:
    name = raw.get("name")
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or "\\" in str(name) or parts[0] == "/" or ".." in parts:
        raise DataError(f"{location} has the name {name!r}; it must be a path inside the images")
    raw_labels = raw.get("labels")
    if raw_labels is not None and not isinstance(raw_labels, list):
        raise DataError(f"{location}: labels are {raw_labels!r:.60}; they must be a list")
    labels = []
    for index, raw_label in enumerate(raw_labels or ()):
        label_location = f"{location}, label {index}"
        if not isinstance(raw_label, dict) or not isinstance(raw_label.get("category"), str):
            raise DataError(
                f"{label_location} is {raw_label!r:.60}; it must be an object with a category"
            )
        labels.append((f"{label_location} (id {raw_label.get('id')})", raw_label))
    group = raw.get("videoName") or raw.get("video_name")
    attributes = raw.get("attributes")
    return ScalabelFrame(
        location,
        str(name),
        labels,
        str(group) if group else None,
        attributes if isinstance(attributes, dict) else {},
        _parse_size(raw, location),
        fraction,
    )


def group_labels_by_name(files: Sequence[Path]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Read label files and return image name -> labels with their locations."""
    labels_by_name: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for file in files:
        for frame in read_frames(file):
            labels_by_name.setdefault(frame.name, []).extend(frame.labels)
    return labels_by_name


def _parse_size(raw: Mapping[str, Any], location: str) -> tuple[int, int] | None:
    raw_size = raw.get("size")
    if raw_size is None:
        return None
    height, width = (
        raw_size.get(key) if isinstance(raw_size, dict) else None for key in ("height", "width")
    )
    if not (type(height) is int and type(width) is int and height > 0 and width > 0):
        raise DataError(
            f"{location} has the size {raw_size!r:.60}; it needs height and width above 0"
        )
    return height, width
