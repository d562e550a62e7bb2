"""Semantic labels of the pixels of an image, from its semantic map or from its instance masks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.data.coco.semantic_maps import read_semantic_map
from resnet_tasks.structures.evaluation import UNLABELED


def has_map(file: CocoFile, record: ImageRecord) -> bool:
    """Return whether an image has a semantic map."""
    return "semantic" in file.annotated and record.sem_seg_file_name is not None


def has_pixel_labels(file: CocoFile, record: ImageRecord) -> bool:
    """Return whether the pixels of an image are annotated."""
    return has_map(file, record) or "masks" in file.annotated


def read_pixel_labels(
    file: CocoFile, record: ImageRecord, categories: CategoryMap
) -> NDArray[np.int64]:
    """Return the `(height, width)` category indices, `UNLABELED` and `VOID`, of an annotated image.

    Args:
        file: COCO file with the image.
        record: Record of the image.
        categories: Category map that the labels are indices into.

    Raises:
        DataError: If the semantic map cannot be read or has a value that is not a category.
    """
    path = file.sem_seg_path(record)
    if path is not None and "semantic" in file.annotated:
        return read_semantic_map(path, categories, (record.height, record.width))
    labels = np.full((record.height, record.width), UNLABELED, dtype=np.int64)
    for annotation in sort_by_descending_area(file.annotations[record.id]):
        if annotation.segmentation is not None:
            labels[decode_mask(annotation.segmentation, record.height, record.width)] = (
                annotation.category
            )
    return labels


def sort_by_descending_area(annotations: Iterable[Annotation]) -> list[Annotation]:
    """Sort the objects in the order in which they are drawn into a label map: small ones on top."""
    return sorted(annotations, key=lambda annotation: -annotation.area)
