"""Images that are ready for a model, as numpy arrays, and the heads that predict on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.tasks import Task, get_task

if TYPE_CHECKING:
    from resnet_tasks.structures.label_table import LabelTable


@dataclass(frozen=True)
class InputImage:
    """Image, or window of an image, that is ready for a model.

    Attributes:
        pixels: `(h, w, C)` uint8 that stands for 0..1, or float32 in 0..1; not normalized.
        geometry: Mapping to the original image.
    """

    pixels: NDArray[Any]
    geometry: Geometry

    def flip(self) -> InputImage:
        """Return the horizontally flipped image, with the geometry that maps back."""
        geometry = self.geometry
        (scale_y, scale_x), (offset_y, offset_x) = geometry.scale, geometry.offset
        flipped = replace(
            geometry,
            scale=(scale_y, -scale_x),
            offset=(offset_y, geometry.input_size[1] - offset_x),
        )
        return InputImage(np.ascontiguousarray(self.pixels[:, ::-1]), flipped)


@dataclass(frozen=True)
class HeadInfo:
    """Description of a head that predicts, whether in torch or in an exported graph.

    Attributes:
        task: Name of its task.
        classes: Class names, in label order.
        category_ids: Category id of every label; empty if the head knows no dataset.
        label_table: Mapping from the dataset's categories to the classes; None: they are the same.
    """

    task: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...] = ()
    label_table: LabelTable | None = None

    @property
    def task_spec(self) -> Task:
        """Task of the head."""
        return get_task(self.task)
