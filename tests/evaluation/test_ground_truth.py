"""Annotations of samples, brought back to the frame of the original image."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.evaluation.ground_truth import build_truth
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target


class Mirrored(Dataset[Sample]):
    """One image of 4 x 8 pixels, shown at 8 x 16 and mirrored left to right."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        semantic = torch.zeros(8, 16, dtype=torch.int64)
        semantic[:, 12:] = 1
        target = Target(
            boxes=torch.tensor([[12.0, 0.0, 16.0, 8.0]]),
            labels=torch.tensor([1]),
            masks=InstanceMasks.from_bitmaps([torch.ones(4, 4, dtype=torch.bool)], [(12, 0)]),
            semantic=semantic,
        )
        geometry = Geometry((4, 8), (8, 16), scale=(2.0, -2.0), offset=(0.0, 16.0))
        return Sample(torch.zeros(3, 8, 16), geometry, 7, "x.png", target)


def test_boxes_and_pixels_come_back_through_a_mirror() -> None:
    truth = build_truth(Mirrored(), 0, LabelTable.identity(("a", "b")))
    assert truth.boxes_xywh is not None
    assert truth.boxes_xywh.tolist() == [[0.0, 0.0, 2.0, 4.0]]
    assert truth.semantic is not None
    assert truth.semantic.shape == (4, 8)
    assert (truth.semantic[:, :2] == 1).all()
    assert (truth.semantic[:, 2:] == 0).all()
    assert truth.segmentations is not None
    mask = np.zeros((4, 8), np.bool_)
    mask[:2, :2] = True
    assert np.array_equal(decode_mask(truth.segmentations[0], 4, 8), mask)
