"""Objects and labels of an image in the frame of its sample."""

from __future__ import annotations

from pathlib import Path

import torch

from resnet_tasks.data.images.intensity import Resize
from tests.support.hand_written import IDENTITY, coco, made


def test_image_without_objects_is_empty_not_unannotated(tmp_path: Path) -> None:
    target = made(coco(tmp_path))[1].target
    assert target.boxes is not None
    assert target.labels is not None
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)


def test_boxes_are_resized_and_clipped(tmp_path: Path) -> None:
    data = made(coco(tmp_path), resize=Resize(16, 16))
    sample = data[2]
    assert sample.image.shape == (3, 11, 16)  # the ratio is kept
    assert sample.target.boxes is not None
    expected = torch.tensor([[9 * 16 / 12, 5 * 11 / 8, 16, 11]])
    assert torch.allclose(sample.target.boxes, expected)
    back = sample.geometry.boxes_to_original(sample.target.boxes)
    assert torch.allclose(back, torch.tensor([[9.0, 5, 12, 8]]))


def test_what_is_not_annotated_is_none(tmp_path: Path) -> None:
    data = made(coco(tmp_path, info={"annotated": ["boxes"]}), fields=("boxes", "semantic"))
    assert data[0].target.semantic is None
    assert data.truth(0, IDENTITY).semantic is None
    data = made(coco(tmp_path, info={"annotated": ["masks"]}))
    assert data[0].target.boxes is None
    assert data[0].target.semantic is not None
    assert data.truth(0, IDENTITY).boxes_xywh is None
    data = made(coco(tmp_path), fields=("boxes",))
    assert data[0].target.semantic is None


def test_masks_follow_their_boxes(tmp_path: Path) -> None:
    masks = made(coco(tmp_path), fields=("boxes", "masks"))[0].target.masks
    assert masks is not None
    assert masks.windows[1].tolist() == [2, 2, 4, 4]
    assert masks.count_pixels().tolist() == [36, 4, 16]
    assert masks.annotated.all()
    empty = made(coco(tmp_path), fields=("boxes", "masks"))[1].target.masks
    assert empty is not None
    assert len(empty) == 0
    unmasked = made(coco(tmp_path, info={"annotated": ["boxes"]}), fields=("boxes", "masks"))
    assert unmasked[0].target.masks is None
