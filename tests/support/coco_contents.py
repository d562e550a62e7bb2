"""Small annotations and results in COCO's format, of every kind of value that they may hold."""

from __future__ import annotations

from typing import Any

PACKED = {"size": [30, 40], "counts": "P16h00000000000000Pm0"}


def build_content() -> dict[str, Any]:
    """Of everything that a file may hold, one."""
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 8, 6], "area": 48}
    annotation |= {"iscrowd": 0, "segmentation": [[1, 2, 9, 2, 9, 8]], "truncated": 0.5}
    lengths = {"size": [30, 40], "counts": [600, 100, 500]}
    packed = {"size": [30, 40], "counts": "P16h00000000000000Pm0"}
    image = {"id": 7, "file_name": "a.png", "height": 30, "width": 40, "group": "p"}
    image |= {"sem_seg_file_name": "a.png", "spacing": [0.5, 0.5]}
    return {
        "info": {"annotated": ["boxes", "masks"], "images_root": "."},
        "images": [image, image | {"id": 8, "file_name": "b.png"}],
        "annotations": [
            annotation,
            annotation | {"id": 2, "segmentation": lengths, "iscrowd": 1},
            annotation | {"id": 3, "segmentation": packed, "category_id": 5},
            {"id": 4, "image_id": 8, "category_id": 2},
        ],
        "categories": [{"id": 2, "name": "car"}, {"id": 5, "name": "bus", "isthing": 0}],
    }


def build_truth() -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 8, 6], "area": 48}
    annotation |= {"iscrowd": 0, "segmentation": [[1, 2, 9, 2, 9, 8]]}
    image = {"id": 7, "file_name": "a.png", "height": 30, "width": 40, "sem_seg_file_name": "a.png"}
    return {
        "images": [image],
        "annotations": [annotation, annotation | {"id": 2, "segmentation": PACKED, "iscrowd": 1}],
        "categories": [{"id": 2, "name": "car"}, {"id": 5, "name": "bus"}],
    }


def build_results() -> list[dict[str, Any]]:
    entry = {"image_id": 7, "category_id": 2, "bbox": [1, 2, 8, 6.5], "score": 0.75}
    return [entry | {"segmentation": PACKED}, entry | {"score": 1e-3, "segmentation": PACKED}]
