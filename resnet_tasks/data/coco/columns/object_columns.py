"""Objects of COCO annotation and results files as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.problems import Id, Problem

Kind = Literal["box", "mask"]


@dataclass(frozen=True)
class TruthColumns:
    """Annotated objects of a COCO file.

    Attributes:
        path: Path of the annotation file.
        image_ids: Image ids in file order.
        sizes: `(P, 2)` int64 height and width of the images in pixels.
        groups: Image id -> group (patient, study, sequence), for the images with a group.
        categories: Mapping between category ids and indices.
        images: `(G,)` int64 indices into `image_ids`.
        labels: `(G,)` int64 indices into `categories`.
        boxes: `(G, 4)` float64 xywh in pixels as in the file, including boxes without area.
        areas: `(G,)` float64 areas in pixels² as in the file.
        crowd: `(G,)` bool, whether the object is a crowd.
        segmentations: One segmentation per object, None for an object without; empty unless masks
            were requested.
        problems: Repairs of the file.
    """

    path: Path
    image_ids: tuple[Id, ...]
    sizes: NDArray[np.int64]
    groups: Mapping[Id, str]
    categories: CategoryMap
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    segmentations: Sequence[Any] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class ResultColumns:
    """Detections of a COCO results file.

    Attributes:
        images: `(D,)` int64 indices into the ground truth's `image_ids`.
        labels: `(D,)` int64 indices into the ground truth's `categories`.
        boxes: `(D, 4)` float64 xywh in pixels; None if masks were requested and the entries have no
            boxes.
        scores: `(D,)` float64 scores.
        segmentations: One segmentation per detection; empty unless masks were requested.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64] | None
    scores: NDArray[np.float64]
    segmentations: Sequence[Any] = ()
