"""Ground truth of an image of any dataset, in the form that evaluators need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from resnet_tasks.data.augmentation.transforms import decode_labels, encode_labels
from resnet_tasks.data.coco.records import boxes_to_xywh
from resnet_tasks.data.sampling.dataset_protocols import HasTruth
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.input_images import HeadInfo
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.label_maps import resize_labels
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.run_lengths import Rle, encode_bitmap
from resnet_tasks.structures.samples import Sample


def get_label_table(head: HeadInfo) -> LabelTable:
    """Return the label table of a head; without one, its classes are the dataset's categories."""
    return head.label_table or LabelTable.identity(head.classes)


def build_truth(dataset: Dataset[Sample], index: int, table: LabelTable) -> GroundTruth:
    """Build the ground truth of image `index`, in original pixels and the labels of one head."""
    if isinstance(dataset, HasTruth):
        return dataset.truth(index, table)
    sample = dataset[index]
    target = table.apply(sample.target)
    size = sample.geometry.original_size
    flips = tuple(axis for axis, scale in enumerate(sample.geometry.scale) if scale < 0)
    semantic = None
    if target.semantic is not None:
        upright = np.flip(target.semantic.numpy(), flips)
        semantic = decode_labels(resize_labels(encode_labels(upright), size))
    image_labels = None if target.image_labels is None else target.image_labels.numpy()
    truth = GroundTruth(
        sample.image_id, size, semantic=semantic, image_labels=image_labels, extra=target.extra
    )
    if target.boxes is None or target.labels is None:
        return truth
    xywh = boxes_to_xywh(sample.geometry.boxes_to_original(target.boxes).numpy())
    crowd = target.ignore if target.ignore is not None else torch.zeros(len(xywh), dtype=torch.bool)
    return replace(
        truth,
        boxes_xywh=xywh,
        labels=target.labels.numpy(),
        crowd=crowd.numpy(),
        areas=xywh[:, 2] * xywh[:, 3],
        segmentations=(
            None if target.masks is None else _encode_masks(target.masks, sample.geometry, flips)
        ),
    )


def _encode_masks(
    masks: InstanceMasks, geometry: Geometry, flips: tuple[int, ...]
) -> tuple[Rle | None, ...]:
    """Return the masks in original pixels, None for objects without one."""
    for axis in flips:
        masks = masks.flip(axis, geometry.input_size)
    size = geometry.original_size
    resized = masks.resize(geometry.input_size, size)
    return tuple(
        encode_bitmap(bitmap.numpy(), size, left=left, top=top) if is_annotated else None
        for bitmap, (left, top, _, _), is_annotated in zip(
            resized.bitmaps, resized.windows.tolist(), resized.annotated.tolist(), strict=True
        )
    )
