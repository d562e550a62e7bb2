"""Reader of BDD100K's label files of 2018: one JSON per image, with other keys than Scalabel's.

{"name": "a", "attributes": {...}, "frames": [{"timestamp": 10000, "objects": [
    {"category": "car", "id": 0, "attributes": {...}, "box2d": {"x1": ..., ...}},
    {"category": "lane/road curb", "id": 1, "poly2d": [[x, y, "L"], [x, y, "C"], ...]}]}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.reading.source_folder import format_listing
from resnet_tasks.data.images.find_images import walk_files
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import read_json
from resnet_tasks.number_formats import Count

OPEN_CATEGORY = "lane"
"""Start of the categories whose paths are not closed."""


def iterate_image_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any], float]]:
    """Yield the file, its frame in Scalabel's form, and the fraction of the files that were read.

    Args:
        folder: Folder of JSON files, searched with its subfolders.

    Raises:
        DataError: If there are no JSON files, or one is not the label file of one image.
    """
    files = [file for file in walk_files(folder) if file.suffix.lower() == ".json"]
    if not files:
        raise DataError(
            f"{folder} should contain JSON files, but contains {format_listing(folder)}; set "
            "`labels` to the folder of the label files"
        )
    for number, file in enumerate(files, start=1):
        yield file, _read_frame(file), number / len(files)


def _read_frame(file: Path) -> dict[str, Any]:
    content = read_json(file)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise DataError(
            f"{file} has no list of `frames`; in a folder of label files, each file describes one "
            "image: pass the file itself in `labels` if it lists many"
        )
    if len(frames) > 1 or any("labels" in frame for frame in frames):
        raise DataError(
            f"{file} has {Count(len(frames)):frame}; in a folder of label files, each file "
            "describes one image with the key `objects`: pass the file itself in `labels` if it "
            "lists many"
        )
    objects = frames[0].get("objects") if frames else []
    if objects is not None and not isinstance(objects, list):
        raise DataError(f"{file}: objects are {objects!r:.60}; they must be a list")
    return {
        "name": content.get("name") or file.stem,
        "attributes": content.get("attributes"),
        "labels": [_convert_object(raw) for raw in objects or ()],
    }


def _convert_object(raw: Any) -> Any:
    """Return an object with its points in Scalabel's form; invalid points are left as they are."""
    points = raw.get("poly2d") if isinstance(raw, dict) else None
    if not isinstance(points, list) or not points or not all(map(_is_typed_point, points)):
        return raw
    path = {
        "vertices": [point[:2] for point in points],
        "types": "".join(point[2] for point in points),
        "closed": not str(raw.get("category")).startswith(OPEN_CATEGORY),
    }
    return {**raw, "poly2d": [path]}


def _is_typed_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 3 and isinstance(point[2], str)
