"""Small COCO files that tests of the doctor break."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GOOD: dict[str, Any] = {
    "info": {"year": 2024},
    "images": [
        {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 2, "file_name": "b.png", "height": 40, "width": 60},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 6, 20, 10], "area": 200.0},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [1, 2, 30, 20], "area": 600.0},
    ],
    "categories": [{"id": 3, "name": "cell"}, {"id": 7, "name": "mitosis"}],
}
for _each in GOOD["annotations"]:
    _each["iscrowd"] = 0


def content(*, images: Sequence[Any] = (), annotations: Sequence[Any] = (), **top: Any) -> Any:
    """The good file with more records at the end; `top` replaces keys, `...` removes them."""
    made = copy.deepcopy(GOOD)
    made["images"] += images
    made["annotations"] += [{"iscrowd": 0, **each} for each in annotations]
    made.update(top)
    return {key: value for key, value in made.items() if value is not ...}


def write(path: Path, made: Any, *, images: bool = True) -> Path:
    """The file, and where there is none yet an image of noise for each of its images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made), encoding="utf-8")
    if images:
        for record in made["images"]:
            place = path.parent / record["file_name"]
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noise(record["file_name"], (40, 60))).save(place)
    return path


def noise(name: str, size: tuple[int, int]) -> Any:
    """Smooth noise that is another for each name."""
    generator = np.random.default_rng(list(name.encode()))
    small = Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC))
