"""Samples, the batch that `collate` makes of them, and the view of it that one head gets.

Shape glossary: `B` batch, `C` channels of an image, `H, W` the padded batch, `h, w` one image
inside it.

Sizes are `(height, width)`. Labels of a `Sample` and a `Batch` are indices into the categories of
the dataset; labels of a `BatchView` are indices into the classes of a head (`Batch.make_view`
translates). Category ids exist in COCO files and `data/coco/` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.geometry import Geometry, flip_and_resize
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.targets import Target
from resnet_tasks.structures.tasks import Task


# Registered here because `geometry` stays free of torch.
@flip_and_resize.register
def _(dense: Tensor, flips: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    values = dense.float()
    if flips:
        values = values.flip([axis + 1 for axis in flips])
    if tuple(values.shape[1:]) == size:
        return values
    return F.interpolate(values[None], size=list(size), mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class Sample:
    """One image as the data pipeline hands it over.

    Attributes:
        image: `(C, h, w)` float32, 0..1, not normalized; or uint8, whose 255 stands for 1
            (`collate` makes floats of them).
        geometry: The way back to the original image.
        image_id: The image's id in its data set.
        file_name: For messages and drawings.
        target: What is annotated; labels are category indices of the data set.
        seed: Function of (run seed, epoch, image); drives the sampling inside heads.
    """

    image: Tensor
    geometry: Geometry
    image_id: int | str
    file_name: str = ""
    target: Target = field(default_factory=Target)
    seed: int = 0


@dataclass(frozen=True)
class BatchView:
    """A batch as one head sees it; every target is annotated for that head.

    Attributes:
        targets: One per image; labels are indices into the head's classes, semantic maps are `(H,
            W)`.
        image_sizes: (height, width) of each image inside the padded batch.
        padded_size: (H, W) of the batch.
        image_ids: For messages.
        seeds: One per image; the only source of randomness for sampling inside a head.
    """

    targets: tuple[Target, ...]
    image_sizes: tuple[tuple[int, int], ...]
    padded_size: tuple[int, int]
    image_ids: tuple[int | str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def semantic(self) -> Tensor:
        """`(B, H, W)` int64 label maps; `VOID` where nothing is to be learned."""
        maps = [target.semantic for target in self.targets]
        assert all(label_map is not None for label_map in maps), (
            "a view holds annotated images only"
        )
        return torch.stack([label_map for label_map in maps if label_map is not None])


@dataclass(frozen=True)
class Batch:
    """Images padded right and below to one size, with what is known of each.

    Attributes:
        images: `(B, C, H, W)` float32, 0..1, not normalized, padded with 0; channels-last in
            memory.
        geometries: One per image.
        image_ids: One per image.
        file_names: One per image.
        targets: One per image; labels are category indices of the data set.
        seeds: One per image.
        left_out: What is wrong with images that should be in it, and are not.
        is_stand_in: All were left out; its one black image is no data.
    """

    images: Tensor
    geometries: tuple[Geometry, ...]
    image_ids: tuple[int | str, ...]
    file_names: tuple[str, ...]
    targets: tuple[Target, ...]
    seeds: tuple[int, ...]
    left_out: tuple[ImageError, ...] = ()
    is_stand_in: bool = False

    def __len__(self) -> int:
        return len(self.geometries)

    @property
    def padded_size(self) -> tuple[int, int]:
        """(H, W) of the batch."""
        return (int(self.images.shape[-2]), int(self.images.shape[-1]))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            targets=tuple(target.to(device, non_blocking=non_blocking) for target in self.targets),
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU run on their own."""
        pinned = tuple(target.pin_memory() for target in self.targets)
        return replace(self, images=self.images.pin_memory(), targets=pinned)

    def find_annotated(self, task: Task, table: LabelTable | None = None) -> tuple[int, ...]:
        """Positions of the images on which everything that `task` needs is annotated.

        With the table of a head, those on which none of its classes was looked for are left out.
        """
        return tuple(
            i
            for i, target in enumerate(self.targets)
            if target.has_fields_for(task)
            and (table is None or table.has_annotated_classes(target))
        )

    def make_view(self, table: LabelTable, positions: Sequence[int] | None = None) -> BatchView:
        """The batch in a head's own labels, cut down to `positions` (default: all)."""
        indices = range(len(self)) if positions is None else positions
        return BatchView(
            targets=tuple(
                table.apply(self.targets[i], self.geometries[i].input_size) for i in indices
            ),
            image_sizes=tuple(self.geometries[i].input_size for i in indices),
            padded_size=self.padded_size,
            image_ids=tuple(self.image_ids[i] for i in indices),
            seeds=tuple(self.seeds[i] for i in indices),
        )


def collate(samples: Sequence[Sample], *, multiple: int = 32) -> Batch:
    """Pads samples right and below to a common size, a multiple of `multiple`, and stacks them.

    Args:
        samples: At least one, all with the same number of channels.
        multiple: 32 is the stride of C5, so that every level divides evenly.

    Returns:
        The batch: images padded with 0, semantic maps with `VOID`, masks with False.

    Raises:
        DataError: If a box has no area: it has no offsets that could be learned.
    """
    for sample in samples:
        _require_areas(sample)
    height = _round_up(max(sample.image.shape[1] for sample in samples), multiple)
    width = _round_up(max(sample.image.shape[2] for sample in samples), multiple)
    channels = samples[0].image.shape[0]
    shape = (len(samples), channels, height, width)
    images = torch.empty(shape, memory_format=torch.channels_last)
    targets = []
    for image, sample in zip(images, samples, strict=True):
        h, w = sample.image.shape[1:]
        image[:, :h, :w] = sample.image
        if sample.image.dtype == torch.uint8:
            image[:, :h, :w] /= 255  # divided, as `Intensity` does: to the same bits
        image[:, h:] = 0
        image[:, :h, w:] = 0
        targets.append(_pad_target(sample.target, height, width))
    return Batch(
        images=images,
        geometries=tuple(sample.geometry for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
        file_names=tuple(sample.file_name for sample in samples),
        targets=tuple(targets),
        seeds=tuple(sample.seed for sample in samples),
    )


def _require_areas(sample: Sample) -> None:
    boxes, ignore = sample.target.boxes, sample.target.ignore
    if boxes is None:
        return
    empty = ~((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)  # and what is not a number
    if ignore is not None:
        empty &= ~ignore
    if empty.any():
        raise DataError(
            f"image {sample.image_id} {sample.file_name}: the box {boxes[empty][0].tolist()} "
            "(x1, y1, x2, y2 in pixels of the sample) has no area; leave such objects out"
        )


def _pad_target(target: Target, height: int, width: int) -> Target:
    changes: dict[str, Any] = {}
    if target.semantic is not None:
        h, w = target.semantic.shape
        changes["semantic"] = F.pad(
            target.semantic.long(), (0, width - w, 0, height - h), value=VOID
        )
    if target.masks is not None:
        h, w = target.masks.shape[-2:]
        changes["masks"] = F.pad(target.masks, (0, width - w, 0, height - h), value=False)
    return replace(target, **changes) if changes else target


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
