"""Objects of COCO annotation and results files in columns."""

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
    """The annotated objects of a COCO file.

    Attributes:
        path: The file.
        image_ids: In file order.
        sizes: `(P, 2)` height and width of the images.
        groups: Id of an image -> its group (patient, study, sequence), where it has one.
        categories: Ids to indices.
        images: `(G,)` indices into `image_ids`.
        labels: `(G,)` indices into `categories`.
        boxes: `(G, 4)` xywh as in the file, boxes without area included.
        areas: `(G,)` pixels², of the file.
        crowd: `(G,)`.
        segmentations: One per object, None where it has none; empty unless masks were asked for.
        problems: What was repaired.
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
    """The detections of a COCO results file.

    Attributes:
        images: `(D,)` indices into the truth's `image_ids`.
        labels: `(D,)` indices into the truth's `categories`.
        boxes: `(D, 4)` xywh; None where masks were asked for and come without.
        scores: `(D,)`.
        segmentations: One per detection; empty unless masks were asked for.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64] | None
    scores: NDArray[np.float64]
    segmentations: Sequence[Any] = ()
