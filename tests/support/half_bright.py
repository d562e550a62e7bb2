"""Noisy images with brighter rectangles, as COCO files, and a tiny recipe that learns them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

Rectangle = tuple[int, float, float, float, float]
"""Category id; left, top, right and bottom as shares of the image's sides."""
RIGHT_HALF: tuple[Rectangle, ...] = ((1, 0.5, 0.0, 1.0, 1.0),)


def write_split(
    file: Path,
    images: Mapping[str, Sequence[Rectangle]],
    *,
    size: tuple[int, int] = (32, 64),
    categories: Sequence[str] = ("bright",),
    first_id: int = 1,
    groups: Sequence[str | None] = (),
) -> None:
    """Writes a COCO file with outlines, and its images beside it.

    Args:
        file: Where to; another name, other noise.
        images: Name without suffix -> what is bright in it; nothing overlaps.
        size: (height, width) of every image.
        categories: Names; their ids count from 1.
        first_id: Of the images.
        groups: Of the images; None for one that has none.
    """
    file.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(file.name.encode()))
    height, width = size
    image_records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, rectangles) in enumerate(images.items(), start=first_id):
        pixels = rng.integers(0, 90, (height, width, 3)).astype(np.uint8)
        for category_id, left, top, right, bottom in rectangles:
            x1, x2 = round(left * width), round(right * width)
            y1, y2 = round(top * height), round(bottom * height)
            pixels[y1:y2, x1:x2] += 120
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
        Image.fromarray(pixels).save(file.with_name(f"{name}.png"))
        record = {"id": image_id, "file_name": f"{name}.png", "height": height, "width": width}
        group = groups[len(image_records)] if groups else None
        image_records.append(record if group is None else {**record, "group": group})
    named = [{"id": i, "name": name} for i, name in enumerate(categories, start=1)]
    content = {"images": image_records, "annotations": annotations, "categories": named}
    file.write_text(json.dumps(content))


def write_recipe(file: Path, root: Path, **parts: Any) -> Path:
    """Writes a recipe for a tiny U-Net that learns and is judged on `a.json`.

    Args:
        file: Where to.
        root: Folder of the data.
        parts: Of the recipe, laid over those here key by key; lists and texts take their place.
    """
    content: dict[str, Any] = {
        "data": {
            "root": str(root),
            "train": [{"annotations": "a.json"}],
            "val": [{"annotations": "a.json"}],
            "allow_leaks": True,
        },
        "backbone": {"name": "test_resnet", "weights": "none"},
        "heads": {
            "scene": {
                "type": "unet",
                "background": True,
                "options": {"decoder_channels": [16, 8, 8, 8, 8]},
            }
        },
        "training": {"batch_size": 2, "precision": "fp32", "device": "cpu"},
    }
    for name, part in parts.items():
        content[name] = {**content.get(name, {}), **part} if isinstance(part, dict) else part
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file
