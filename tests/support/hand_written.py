"""A COCO file written by hand: three small images with objects of three categories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.structures.label_table import LabelTable

CATEGORIES = [{"id": 7, "name": "car"}, {"id": 90, "name": "road"}, {"id": 3, "name": "dog"}]
"""Indices: dog 0, car 1, road 2."""


IDENTITY = LabelTable.identity(("dog", "car", "road"))


def box(annotation_id: int, image: int, category: int, xywh: list[float], **more: Any) -> Any:
    found = {"id": annotation_id, "image_id": image, "category_id": category, "bbox": xywh}
    return {**found, "area": xywh[2] * xywh[3], "iscrowd": 0, **more}


def square(x: int, y: int, size: int) -> list[list[int]]:
    return [[x, y, x + size, y, x + size, y + size, x, y + size]]


def coco(folder: Path, *, name: str = "train.json", **fields: Any) -> CocoFile:
    """Images 1 (objects, 8 x 12), 2 (none), 3 (an object) with noise in them."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    images = []
    for i in (1, 2, 3):
        pixels = rng.integers(0, 256, (8, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 8, "width": 12})
    annotations = [
        box(1, 1, 90, [0, 0, 6, 6], segmentation=square(0, 0, 6)),
        box(2, 1, 3, [2, 2, 2, 2], segmentation=square(2, 2, 2)),
        box(3, 1, 7, [8, 4, 4, 4], iscrowd=1, segmentation=square(8, 4, 4)),
        box(4, 3, 7, [9, 5, 6, 6], segmentation=square(9, 5, 3)),  # beyond the frame
    ]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES, **fields}
    (folder / name).write_text(json.dumps(content))
    return read_coco(folder / name)


def labeled(folder: Path, annotated: list[str]) -> CocoFile:
    """Images 1 (labels 90, 3 and 3 again, and a box), 2 (none) and 3 (label 7)."""
    labels = [(1, 90), (1, 3), (1, 3), (3, 7)]
    annotations = [
        {"id": i, "image_id": image, "category_id": category}
        for i, (image, category) in enumerate(labels, start=1)
    ]
    annotations.append(box(9, 1, 7, [0, 0, 6, 6]))
    info = {"annotated": annotated}
    return coco(folder, annotations=annotations, info=info)


def made(file: CocoFile, **options: Any) -> CocoDataset:
    return CocoDataset([file], categories=file.categories, **options)
