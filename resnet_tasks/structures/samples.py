"""Samples, the batch that `collate` makes of them, and the view of the batch for one head.

Shape glossary: `B` batch, `C` channels of an image, `H, W` the padded batch, `h, w` one image
inside it.

Sizes are `(height, width)`. Labels of a `Sample` and a `Batch` are indices into the categories of
the dataset; labels of a `BatchView` are indices into the classes of a head (`Batch.make_view`
translates). Category ids exist in COCO files and `data/coco/` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

import resnet_tasks.structures.tensors  # noqa: F401  # registers functions of `arrays` for tensors
from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.targets import Target


@dataclass(frozen=True)
class Sample:
    """Image with its annotations, output of the data pipeline.

    Attributes:
        image: `(C, h, w)` float32 in 0..1, not normalized; or uint8 in 0..255, which `collate`
            divides by 255.
        geometry: Mapping to the original image.
        image_id: Id of the image in its dataset.
        file_name: File name for messages and drawings.
        target: Annotations; labels are category indices of the dataset.
        seed: Function of (run seed, epoch, image, visit); drives the sampling inside heads. The
            visit is the number of earlier occurrences of the image in the epoch. Training sets the
            seed of every sample, so that a dataset need not.
    """

    image: Tensor
    geometry: Geometry
    image_id: int | str
    file_name: str = ""
    target: Target = field(default_factory=Target)
    seed: int = 0


@dataclass(frozen=True)
class BatchView:
    """Batch in the labels of one head, restricted to images that are annotated for that head.

    Attributes:
        targets: Target of every image; labels are indices into the head's classes, semantic maps
            are `(H, W)`.
        image_sizes: (height, width) of each image inside the padded batch, pixels.
        padded_size: (H, W) of the batch, pixels.
        image_ids: Id of every image, for messages.
        seeds: Seed of every image; the only source of randomness for sampling inside a head.
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
        """`(B, H, W)` int64 label maps; `VOID` pixels do not contribute to the loss."""
        maps = [target.semantic for target in self.targets]
        assert all(label_map is not None for label_map in maps), (
            "a view holds annotated images only"
        )
        return torch.stack([label_map for label_map in maps if label_map is not None])


@dataclass(frozen=True)
class Batch:
    """Images padded right and below to a common size, with their annotations.

    Attributes:
        images: `(B, C, H, W)` float32, 0..1, not normalized, padded with 0; channels-last in
            memory.
        geometries: Geometry of every image.
        image_ids: Id of every image.
        file_names: File name of every image.
        targets: Target of every image; labels are category indices of the dataset.
        seeds: Seed of every image.
        left_out: Errors of the images that were excluded from the batch.
        is_stand_in: Whether all images were excluded; the batch then holds one black placeholder
            image.
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
        """(H, W) of the batch, pixels."""
        return (int(self.images.shape[-2]), int(self.images.shape[-1]))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the same batch on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            targets=tuple(target.to(device, non_blocking=non_blocking) for target in self.targets),
        )

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory, which allows asynchronous GPU copies."""
        pinned = tuple(target.pin_memory() for target in self.targets)
        return replace(self, images=self.images.pin_memory(), targets=pinned)

    def find_annotated(
        self, fields: Sequence[str], table: LabelTable | None = None
    ) -> tuple[int, ...]:
        """Return the positions of the images that are annotated with all of some fields.

        Args:
            fields: Fields of `Target` that the head's task requires.
            table: Label table of the head; None: not used. With a table, images on which none of
                the head's classes was annotated are excluded.
        """
        return tuple(
            i
            for i, target in enumerate(self.targets)
            if target.has_fields(fields) and (table is None or table.has_annotated_classes(target))
        )

    def make_view(self, table: LabelTable, positions: Sequence[int] | None = None) -> BatchView:
        """Create the view of a head.

        Args:
            table: Label table of the head.
            positions: Positions of the images to keep; default: all.
        """
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
    """Pad samples right and below to a common size and stack them.

    Args:
        samples: Samples with equal numbers of channels, at least one.
        multiple: Divisor of the padded height and width; 32 is the stride of C5, so that every
            level divides evenly.

    Returns:
        Batch whose images are padded with 0, semantic maps with `VOID`.

    Raises:
        DataError: If a box has no area and therefore no box deltas to learn.
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
            image[:, :h, :w] /= 255  # not `* (1 / 255)`: bit-identical to `Intensity`
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
    empty = ~((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)  # also True for NaN
    if ignore is not None:
        empty &= ~ignore
    if empty.any():
        raise DataError(
            f"image {sample.image_id} {sample.file_name}: the box {boxes[empty][0].tolist()} (x1, "
            "y1, x2, y2 in pixels of the sample) has no area; remove such objects"
        )


def _pad_target(target: Target, height: int, width: int) -> Target:
    if target.semantic is None:
        return target
    h, w = target.semantic.shape
    semantic = F.pad(target.semantic.long(), (0, width - w, 0, height - h), value=VOID)
    return replace(target, semantic=semantic)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
