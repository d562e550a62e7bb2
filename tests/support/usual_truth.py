"""A COCO file of the usual form, which the evaluation decodes in bulk."""

from __future__ import annotations

from typing import Any

TRUTH: dict[str, Any] = {
    "info": {},
    "images": [
        {"id": 7, "file_name": "a.png", "height": 10, "width": 20, "group": "p1"},
        {"id": 3, "file_name": "b.png", "height": 10, "width": 20},
    ],
    "categories": [{"id": 90, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 9, "iscrowd": 1},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 0], "area": 0, "iscrowd": 0},
    ],
}
