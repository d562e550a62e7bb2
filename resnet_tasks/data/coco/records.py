"""Image and annotation records of COCO files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.problems import Id
from resnet_tasks.structures.arrays import as_array

if TYPE_CHECKING:
    from torch import Tensor

Xywh = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageRecord:
    """Image of a COCO file.

    Attributes:
        id: Id in the file.
        file_name: Path relative to the images folder of the file, inside that folder.
        height: Height of the upright image in pixels.
        width: Width of the upright image in pixels.
        sem_seg_file_name: Path of the semantic label map, relative to `CocoFile.sem_seg_root`.
        group: Patient, study or sequence. Splits never divide a group.
        spacing: (y, x) millimeters per pixel.
        extra: Other fields of the record, without COCO's bookkeeping fields (license, URLs, date).
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
    """Object or image-level label of an image.

    Attributes:
        id: Id in the file, or a new one if that is missing or not unique.
        image_id: Id of the image.
        category: Index into the `CategoryMap` of the file.
        bbox: (x, y, width, height) in pixels exactly as in the file, width and height above 0; None
            for image-level labels.
        area: Area in pixels² as in the file (of the mask if there is one), or computed.
        is_crowd: Whether it is a region of many objects, which is neither positive nor negative.
        segmentation: Input of `decode_mask`: polygons (packed as `array("d")`) or run lengths.
        occluded: KITTI's degree of occlusion: 0 visible, 1 partly, 2 largely, 3 unknown.
        truncated: Fraction of the object outside the image, 0..1.
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
    """Return `(N, 4)` xyxy boxes as COCO's `(N, 4)` (x, y, width, height), computed in float64."""
    corners = as_array(boxes).astype(np.float64).reshape(-1, 4)
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
