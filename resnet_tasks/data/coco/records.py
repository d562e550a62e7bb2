"""One image and one annotation of a COCO file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.problems import Id
from resnet_tasks.structures.evaluation import as_array

if TYPE_CHECKING:
    from torch import Tensor

Xywh = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageRecord:
    """One image of a COCO file.

    Attributes:
        id: As in the file.
        file_name: Relative to the file's images root, inside it.
        height: Pixels of the upright image.
        width: Pixels of the upright image.
        sem_seg_file_name: Semantic label map, relative to the file's semantic root.
        group: Patient, study or sequence; splits never cut through a group.
        spacing: (y, x) millimeters per pixel.
        extra: The record's other fields, COCO's own bookkeeping left out.
    """

    id: Id
    file_name: str
    height: int
    width: int
    sem_seg_file_name: str | None = None
    group: str | None = None
    spacing: tuple[float, float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object, or one image-level label, of an image.

    Attributes:
        id: As in the file, or a new one where the file's is missing or not unique.
        image_id: Id of its image.
        category: Index into the file's `CategoryMap`.
        bbox: (x, y, width, height) exactly as in the file, pixels, width and height above 0; None
            for image-level labels.
        area: Pixels² as in the file (of the mask where there is one), or computed.
        is_crowd: A region of many objects: neither positive nor negative.
        segmentation: What `decode_mask` takes: polygons (packed as `array("d")`) or run lengths.
        occluded: KITTI's degree: 0 visible, 1 partly, 2 largely occluded, 3 unknown.
        truncated: Share 0..1 that lies outside the image.
    """

    id: Id
    image_id: Id
    category: int
    bbox: Xywh | None
    area: float
    is_crowd: bool = False
    segmentation: list[Any] | dict[str, Any] | None = None
    occluded: float | None = None
    truncated: float | None = None


def boxes_to_xywh(boxes: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    """`(N, 4)` xyxy boxes as COCO's `(N, 4)` (x, y, width, height), computed in float64."""
    corners = as_array(boxes).astype(np.float64).reshape(-1, 4)
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
