"""The typed tensors that all parts exchange: one box convention, one label convention.

Shape glossary: `B` batch, `C` channels of an image, `H, W` the padded batch, `h, w` one image
inside it, `N` objects, `K` classes.

Boxes are `(N, 4)` float32 `xyxy` in absolute pixels with `0 <= x1 < x2 <= width`. Sizes are
`(height, width)`. Labels of a `Sample` are indices into the categories of the data set; labels
inside a head are indices into the classes of that head (`Batch.view` translates). Category ids
exist in COCO files and `data/coco.py` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.structures.evaluation import (
    ABSENT,
    IGNORED,
    VOID,
)
from resnet_tasks.structures.geometry import Geometry, flip_and_resize

REGION_MARGIN = 10_000.0
"""Pixels by which the region of a whole image surpasses it: anchors at its border, which lie
outside for the most part, are inside the region."""


@dataclass(frozen=True)
class FeatureSpec:
    """What a feature level is, known before any tensor exists.

    Attributes:
        channels: Number of channels.
        stride: Input pixels per feature cell (px/px).
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class Task:
    """What a head does.

    Attributes:
        name: Key of the task's evaluator in `registry.EVALUATORS` too.
        target_fields: Fields of `Target` that the head's loss needs.
    """

    name: str
    target_fields: tuple[str, ...]


DETECTION = Task("detection", ("boxes", "labels"))
SEMANTIC_SEGMENTATION = Task("semantic_segmentation", ("semantic",))
CLASSIFICATION = Task("classification", ("image_labels",))


@flip_and_resize.register
def _(dense: Tensor, flips: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    values = dense.float()
    if flips:
        values = values.flip([axis + 1 for axis in flips])
    if tuple(values.shape[1:]) == size:
        return values
    return F.interpolate(values[None], size=list(size), mode="bilinear", align_corners=False)[0]


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
class LabelTable:
    """Translation of a data set's category indices into the label indices of one head.

    Attributes:
        classes: The head's class names, in label order.
        mapping: Per category index of the data set: the head's label, `IGNORED` or `ABSENT`.
        unlabeled: The head's label for `UNLABELED` pixels: `VOID`, or that of its background
            class.
    """

    classes: tuple[str, ...]
    mapping: tuple[int, ...]
    unlabeled: int = VOID

    @classmethod
    def identity(cls, classes: Sequence[str]) -> LabelTable:
        """The table of a head whose classes are the data set's categories."""
        return cls(tuple(classes), tuple(range(len(classes))))

    def apply(self, target: Target, size: tuple[int, int] = (0, 0)) -> Target:
        """`target` in the head's labels: unknown objects ignored or absent, their pixels void.

        Where nobody looked for a class of the head, what is annotated teaches as ever, and the rest
        of the image is neither positive nor negative: an ignore region for boxes, void for
        unlabeled pixels.

        Args:
            target: In the data set's category indices.
            size: (height, width) of its image.
        """
        changes: dict[str, Any] = {}
        missing = self._find_missing_labels(target)
        if target.unannotated is not None:
            changes["unannotated"] = missing
        if target.boxes is not None and target.labels is not None:
            mapped = self._to_tensor(target.labels)[target.labels]
            is_kept = mapped != ABSENT
            ignore = mapped == IGNORED
            if target.ignore is not None:
                ignore = ignore | target.ignore
            changes |= {
                "boxes": target.boxes[is_kept],
                "labels": mapped.clamp(min=0)[is_kept],
                "ignore": ignore[is_kept],
            }
            if target.masks is not None:
                changes["masks"] = target.masks[is_kept]
            if missing is not None:
                changes |= _add_ignore_region(changes, size)
        if target.semantic is not None:
            # Index -1 (VOID) and -2 (UNLABELED) reach the two entries appended at the end.
            table = torch.cat(
                (
                    self._to_tensor(target.semantic).clamp(min=VOID),
                    target.semantic.new_tensor([self.unlabeled if missing is None else VOID, VOID]),
                )
            )
            changes["semantic"] = table[target.semantic]
        if target.image_labels is not None:
            mapped = self._to_tensor(target.image_labels)[target.image_labels]
            changes["image_labels"] = mapped[mapped != ABSENT]
        return replace(target, **changes)

    def has_annotated_classes(self, target: Target) -> bool:
        """Whether any class of the head was looked for on an image."""
        missing = self._find_missing_labels(target)
        return missing is None or len(missing) < sum(label >= 0 for label in self.mapping)

    def _find_missing_labels(self, target: Target) -> Tensor | None:
        """The head's labels that nobody looked for; None where there are none."""
        if target.unannotated is None:
            return None
        mapped = self._to_tensor(target.unannotated)[target.unannotated]
        missing = mapped[mapped >= 0]
        return missing if len(missing) else None

    def _to_tensor(self, like: Tensor) -> Tensor:
        return torch.tensor(self.mapping, dtype=torch.int64, device=like.device)


def _add_ignore_region(objects: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """The same objects and an ignore region that holds the whole image."""
    boxes, labels, ignore = (objects[name] for name in ("boxes", "labels", "ignore"))
    height, width = size
    region = boxes.new_tensor(
        [[-REGION_MARGIN, -REGION_MARGIN, width + REGION_MARGIN, height + REGION_MARGIN]]
    )
    extended = {
        "boxes": torch.cat((boxes, region)),
        "labels": torch.cat((labels, labels.new_zeros(1))),
        "ignore": torch.cat((ignore, ignore.new_ones(1))),
    }
    if "masks" in objects:
        masks = objects["masks"]
        extended["masks"] = torch.cat((masks, masks.new_ones(1, *masks.shape[1:])))
    return extended


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


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss; its value is `sum / count`.

    Attributes:
        sum: Scalar, with gradient.
        count: Scalar without gradient; what the sum runs over (samples, pixels). 0 where there is
            nothing to learn.
    """

    sum: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """`sum / count`, 0 where the count is 0."""
        return self.sum / self.count.clamp(min=1e-12) if self.count > 0 else self.sum * 0.0
