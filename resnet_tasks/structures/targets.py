"""Annotations of one image as tensors: boxes, masks, a semantic map, image labels.

Shape glossary: `h, w` one image inside the batch, `H, W` the padded batch, `N` objects.

Boxes are `(N, 4)` float32 `xyxy` in absolute pixels with `0 <= x1 < x2 <= width`. Labels are
indices into the categories of the dataset; inside a head, into the classes of that head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.structures.tasks import Task


@dataclass(frozen=True)
class Target:
    """What is annotated on one image.

    `None` means not annotated; empty means looked at, and nothing there.

    Attributes:
        boxes: `(N, 4)` float32 xyxy, input pixels.
        labels: `(N,)` int64.
        ignore: `(N,)` bool; crowds and ignore regions: neither positive nor negative.
        masks: `(N, h, w)` bool.
        semantic: `(h, w)` int64 label map; `VOID` and `UNLABELED` are its special values. Inside a
            `Batch` padded with `VOID` to `(H, W)`; inside a `BatchView` void is the only special
            value.
        image_labels: `(L,)` int64, each label once; inside a `BatchView` `IGNORED` stands for
            labels that the head does not know.
        unannotated: `(U,)` int64 labels that nobody looked for on this image: that they are not
            there does not mean that they are absent. None: all were looked for.
        extra: Fields of the user's own.
    """

    boxes: Tensor | None = None
    labels: Tensor | None = None
    ignore: Tensor | None = None
    masks: Tensor | None = None
    semantic: Tensor | None = None
    image_labels: Tensor | None = None
    unannotated: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def has_fields_for(self, task: Task) -> bool:
        """Whether everything that `task` needs is annotated."""
        return all(
            getattr(self, name, None) is not None or name in self.extra
            for name in task.target_fields
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Target:
        """The same target on `device`."""
        return self._map_tensors(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Target:
        """The same target in page-locked memory."""
        return self._map_tensors(Tensor.pin_memory)

    def _map_tensors(self, change: Callable[[Tensor], Tensor]) -> Target:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)
