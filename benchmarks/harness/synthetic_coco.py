"""Synthetic COCO files of the size of train2017, the same in every call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = 80
Sides = Callable[[np.random.Generator, int], NDArray[np.float64]]


def write_coco(
    path: Path,
    annotations: Iterable[Mapping[str, Any]],
    *,
    num_images: int,
    size: tuple[int, int],
    file_name: Callable[[int], str],
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a COCO file record by record, so that a large file needs little memory.

    Args:
        path: Path of the file.
        annotations: Annotation records.
        num_images: Number of images; `number_to_image_id` gives their ids.
        size: (height, width) of all images.
        file_name: Function from the number of an image to its file name.
        info: `info` section of the file; None writes none.
    """
    height, width = size
    shape = {"height": height, "width": width, "license": 3}
    images = (
        {"id": number_to_image_id(i), "file_name": file_name(i), **shape} for i in range(num_images)
    )
    with path.open("w", encoding="utf-8") as stream:
        stream.write("{")
        if info is not None:
            stream.write(f'"info": {json.dumps(info)}, ')
        categories = [{"id": i + 1, "name": f"class {i + 1}"} for i in range(CLASSES)]
        stream.write(f'"categories": {json.dumps(categories)}, "images": [')
        _write_records(stream.write, images)
        stream.write('], "annotations": [')
        _write_records(stream.write, annotations)
        stream.write("]}")


def number_to_image_id(number: int) -> int:
    """Return the id of an image; ids have gaps, as in COCO."""
    return 5 * number + 9


def generate_ellipses(
    *, num_images: int, num_objects: int, size: tuple[int, int], sides: Sides
) -> Iterator[dict[str, Any]]:
    """Generate annotations with elliptic outlines of 4 to 40 points, rounded to 2 digits.

    Class frequencies decrease as 1/rank. The first objects contain one object of each class.

    Args:
        num_images: Number of images over which the objects are distributed.
        num_objects: Number of objects.
        size: (height, width) of the images.
        sides: Function that draws `(objects, 2)` widths and heights of boxes.
    """
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, CLASSES + 1)
    classes = rng.choice(CLASSES, num_objects, p=frequency / frequency.sum()) + 1
    classes[:CLASSES] = np.arange(1, CLASSES + 1)[: len(classes)]
    images = rng.integers(0, num_images, num_objects)
    boxes = sides(rng, num_objects)
    corners = rng.random((num_objects, 2)) * ((size[1], size[0]) - boxes)
    points = rng.integers(1, 11, num_objects) * 4  # multiples of 4 touch all sides of the box
    for i in range(num_objects):
        angles = np.linspace(0, 2 * np.pi, points[i], endpoint=False)
        circle = np.column_stack((np.cos(angles), np.sin(angles)))
        yield {
            "id": i + 1,
            "image_id": number_to_image_id(int(images[i])),
            "category_id": int(classes[i]),
            "segmentation": [
                np.round(corners[i] + boxes[i] * (1 + circle) / 2, 2).ravel().tolist()
            ],
            "area": round(0.785 * float(boxes[i].prod()), 4),
            "bbox": np.round(np.concatenate((corners[i], boxes[i])), 2).tolist(),
            "iscrowd": 0,
        }


def _write_records(write: Callable[[str], object], records: Iterable[Mapping[str, Any]]) -> None:
    for number, record in enumerate(records):
        write((", " if number else "") + json.dumps(record))
