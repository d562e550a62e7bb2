"""Pasted masks: exact pixel centers, closer to the object than torchvision's, bounded memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

import resnet_tasks.structures.tensors  # noqa: F401  # registers tensors
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.tasks.instance_segmentation.pasting import decode_instances, paste_mask

CELLS = 28
SURE = 20.0


def paste(probs: Any, corners: list[float], size: tuple[int, int]) -> np.ndarray:
    return decode_mask(dict(paste_mask(np.asarray(probs, np.float32), corners, size)), *size)


def is_inside_ellipse(
    x: np.ndarray, y: np.ndarray, center: np.ndarray, axes: np.ndarray, angle: float
) -> np.ndarray:
    u = (x - center[0]) * np.cos(angle) + (y - center[1]) * np.sin(angle)
    v = (y - center[1]) * np.cos(angle) - (x - center[0]) * np.sin(angle)
    return (u / axes[0]) ** 2 + (v / axes[1]) ** 2 <= 1


def compute_iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


def test_bilinear_rule_by_hand() -> None:
    """Two cells [1, 0] over 4 pixels, whose centers lie at -0.25, 0.25, 0.75, 1.25 cells.

    With zeros outside, the probabilities are 0.75, 0.75, 0.25 and 0.
    """
    assert paste([[1, 0]], [2, 0, 6, 1], (1, 8)).tolist() == [[0, 0, 1, 1, 0, 0, 0, 0]]
    # Mirrored corners mirror the mask.
    assert paste([[1, 0]], [6, 0, 2, 1], (1, 8)).tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]]
    # Centers at -0.5, 0, 0.5 and 1 cells: 0.5, 1, 0.5 and 0, and 0.5 is enough.
    assert paste([[1, 0]], [1.5, 0, 5.5, 1], (1, 8)).tolist() == [[0, 1, 1, 1, 0, 0, 0, 0]]
    assert paste([[1, 0]], [1.4, 0, 5.4, 1], (1, 8)).tolist() == [[0, 1, 1, 0, 0, 0, 0, 0]]


def test_boxes_beyond_the_image_keep_their_scale() -> None:
    full = paste([[1, 0, 1, 1]], [2, 0, 18, 1], (1, 20))
    assert (paste([[1, 0, 1, 1]], [-4, 0, 12, 1], (1, 14)) == full[:, 6:]).all()
    assert not paste(np.ones((2, 2)), [30, 0, 40, 1], (1, 20)).any()
    assert not paste(np.ones((2, 2)), [3.6, 0, 4.4, 1], (1, 20)).any()


def test_masks_are_closer_to_ellipses_than_those_of_torchvision() -> None:
    """Both get the coverage of each cell; the object is known at every pixel center."""
    rng, size = np.random.default_rng(0), (300, 400)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    gains, ours = [], []
    for _ in range(200):
        axes = np.exp(rng.uniform(np.log(4), np.log(120), 2))
        angle, center = rng.uniform(0, np.pi), rng.uniform(0, 1, 2) * size[::-1]
        reach = np.hypot(
            axes[0] * np.array([np.cos(angle), np.sin(angle)]),
            axes[1] * np.array([np.sin(angle), np.cos(angle)]),
        )
        box = np.concatenate(((center - reach).clip(0), np.minimum(center + reach, size[::-1])))
        fine = (np.arange(CELLS * 8) + 0.5) / (CELLS * 8)
        grid = np.meshgrid(box[0] + fine * (box[2] - box[0]), box[1] + fine * (box[3] - box[1]))
        covered = is_inside_ellipse(*grid, center, axes, angle)
        probs = covered.reshape(CELLS, 8, CELLS, 8).mean(axis=(1, 3)).astype(np.float32)
        expected = is_inside_ellipse(x, y, center, axes, angle)
        theirs = paste_masks_in_image(
            torch.from_numpy(probs)[None, None], torch.from_numpy(box).float()[None], size
        )
        ours.append(compute_iou(paste(probs, box.tolist(), size), expected))
        gains.append(ours[-1] - compute_iou(theirs[0, 0].numpy() > 0.5, expected))
    assert min(gains) >= 0
    assert np.mean(gains) > 0.03
    assert np.mean(ours) > 0.98


def build_outputs(boxes: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    number = len(boxes)
    return {
        "boxes": boxes[None].astype(np.float32),
        "scores": np.linspace(0.1, 0.9, number, dtype=np.float32)[None],
        "labels": np.arange(number)[None] % 3,
        "valid": np.ones((1, number), np.bool_),
        "mask_logits": logits[None].astype(np.float32),
    }


def test_decode_maps_boxes_and_masks_to_the_original_image() -> None:
    """The left half of the box is object; a flip makes it the right half of the original."""
    logits = np.full((2, CELLS, CELLS), -SURE)
    logits[:, :, : CELLS // 2] = SURE
    outputs = build_outputs(np.array([[10, 20, 30, 40], [90, 0, 130, 30]]), logits)
    plain = Geometry.from_resize((50, 200), (100, 100))
    flipped = Geometry((50, 200), (100, 100), (2.0, -0.5), (0.0, 100.0))
    for kind in (np.asarray, torch.from_numpy):
        first, second = decode_instances(
            {k: kind(np.repeat(v, 2, axis=0)) for k, v in outputs.items()}, [plain, flipped]
        )
        # The best first; its box is cut where the image ends.
        assert first.boxes.tolist() == [[180, 0, 200, 15], [20, 10, 60, 20]]
        assert first.labels.tolist() == [1, 0]
        mask = decode_mask(dict(first.segmentations[1]), 50, 200)
        assert np.argwhere(mask).min(axis=0).tolist() == [10, 20]
        assert np.argwhere(mask).max(axis=0).tolist() == [19, 39]
        # The cells of a clipped box keep their size: the left half reaches the border.
        assert decode_mask(dict(first.segmentations[0]), 50, 200).sum() == 20 * 15
        assert second.boxes.tolist() == [[0, 0, 20, 15], [140, 10, 180, 20]]
        mirrored = decode_mask(dict(second.segmentations[1]), 50, 200)
        assert (mirrored == mask[:, ::-1]).all()


def test_padding_is_no_instance() -> None:
    outputs = build_outputs(
        np.array([[0, 0, 9, 9], [0, 0, 9, 9], [70, 0, 90, 9]]), np.zeros((3, CELLS, CELLS))
    )
    outputs["valid"][0, 0] = False
    (decoded,) = decode_instances(outputs, [Geometry.from_resize((60, 60), (60, 60))])
    assert len(decoded) == 1
    assert decoded.scores.tolist() == pytest.approx([0.5])
    assert decoded.boxes.dtype == np.float32


@pytest.mark.parametrize("side", [100, 1000])
def test_memory_of_500_instances_is_bounded(side: int) -> None:
    """500 bitmaps of 2,000 x 2,000 would take 1.9 GiB; one bitmap takes 3.8 MiB."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 2000 - side, (500, 2))
    y, x = np.mgrid[:CELLS, :CELLS] - 13.5
    logits = np.repeat((12 - np.hypot(x, y))[None], 500, axis=0)
    outputs = build_outputs(np.concatenate((low, low + side), axis=1), logits)
    geometry = Geometry.from_resize((2000, 2000), (2000, 2000))
    tracemalloc.start()
    (decoded,) = decode_instances(outputs, [geometry])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(decoded) == 500
    assert peak < 12 * 2**20
