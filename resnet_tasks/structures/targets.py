"""Annotations of one image as tensors: boxes, masks, a semantic map, image labels.

Shape glossary: `h, w` one image inside the batch, `H, W` the padded batch, `N` objects.

Boxes are `(N, 4)` float32 `xyxy` in absolute pixels with `0 <= x1 < x2 <= width`. Labels are
indices into the categories of the dataset; inside a head, into the classes of that head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from resnet_tasks.structures.instance_masks import InstanceMasks

Stored = TypeVar("Stored", Tensor, InstanceMasks)
"""Type of a field that lives on a device."""


@dataclass(frozen=True)
class Target:
    """Annotations of one image.

    `None` means not annotated; empty means annotated without any object.

    Attributes:
        boxes: `(N, 4)` float32 xyxy, input pixels.
        labels: `(N,)` int64.
        ignore: `(N,)` bool, True for crowds and ignore regions, which are neither positive nor
            negative.
        masks: Bitmaps of the N objects in windows of the image. Objects without a mask may be among
            them (`InstanceMasks.annotated`).
        semantic: `(h, w)` int64 label map with the special values `VOID` and `UNLABELED`. Padded
            with `VOID` to `(H, W)` inside a `Batch`; `VOID` is the only special value inside a
            `BatchView`.
        image_labels: `(L,)` int64, unique; `IGNORED` inside a `BatchView` for labels unknown to the
            head.
        unannotated: `(U,)` int64 labels that were not annotated on this image, so that their
            objects may be present without annotation. None: all labels were annotated.
        extra: User-defined fields.
    """

    boxes: Tensor | None = None
    labels: Tensor | None = None
    ignore: Tensor | None = None
    masks: InstanceMasks | None = None
    semantic: Tensor | None = None
    image_labels: Tensor | None = None
    unannotated: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def has_fields(self, fields: Iterable[str]) -> bool:
        """Return whether the image is annotated with all of these fields."""
        return all(getattr(self, name, None) is not None or name in self.extra for name in fields)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Target:
        """Return the same target on `device`."""

        def move(value: Stored) -> Stored:
            return value.to(device, non_blocking=non_blocking)

        return self._map_fields(move)

    def pin_memory(self) -> Target:
        """Return the same target in page-locked memory."""

        def pin(value: Stored) -> Stored:
            return value.pin_memory()

        return self._map_fields(pin)

    def _map_fields(self, change: Callable[[Any], Any]) -> Target:
        changed: dict[str, Any] = {
            name: change(value)
            for name, value in vars(self).items()
            if isinstance(value, (Tensor, InstanceMasks))
        }
        return replace(self, **changed)
