"""Instances of windows become those of the image: cut objects once, neighbors apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.run_lengths import compute_mask_iou, encode_bitmap
from resnet_tasks.tasks.detection.merge_windows import WindowDetections
from resnet_tasks.tasks.instance_segmentation.merge_windows import merge_instances

Frame = tuple[int, int, int, int]
Instance = tuple[np.ndarray, float, int]
LEFT, RIGHT = (0, 0, 100, 100), (75, 0, 175, 100)
SIZE = (100, 175)


def ellipse(
    size: tuple[int, int], x: float, y: float, a: float, b: float, turn: float = 0.0
) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    u = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
    v = (rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def window(frame: Frame, *objects: Instance) -> WindowDetections:
    """Instances of a window, masks and tight boxes as far as the window reaches."""
    boxes, masks, rows = [], [], []
    for bitmap, score, label in objects:
        seen = np.zeros_like(bitmap)
        x1, y1, x2, y2 = frame
        seen[y1:y2, x1:x2] = bitmap[y1:y2, x1:x2]
        if not seen.any():
            continue
        points = np.argwhere(seen)
        boxes.append([*points.min(axis=0)[::-1], *(points.max(axis=0) + 1)[::-1]])
        masks.append(encode_bitmap(seen, (bitmap.shape[0], bitmap.shape[1])))
        rows.append((score, label))
    instances = InstanceSegmentation(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray([score for score, _ in rows], np.float32),
        np.asarray([label for _, label in rows], np.int64),
        tuple(masks),
    )
    return WindowDetections(instances, frame)


def bitmaps(merged: InstanceSegmentation, size: tuple[int, int]) -> list[np.ndarray]:
    return [decode_mask(dict(rle), *size) for rle in merged.segmentations]


def compute_iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_instances_of_one_window_are_unchanged() -> None:
    alone = window(LEFT, (ellipse(SIZE, 50, 50, 60, 20), 0.9, 0))
    assert merge_instances([alone], SIZE) is alone.detections


@pytest.mark.parametrize("overlap", [0, 25])
def test_an_ellipse_cut_by_two_windows_is_restored(overlap: int) -> None:
    size = (100, 200 - overlap)
    expected = ellipse(size, 95, 50, 70, 30, 0.2)
    frames: list[Frame] = [LEFT, (100 - overlap, 0, 200 - overlap, 100)]
    scores = (0.6, 0.8)
    merged = merge_instances(
        [window(f, (expected, s, 3)) for f, s in zip(frames, scores, strict=True)], size
    )
    assert len(merged) == 1
    assert compute_iou(bitmaps(merged, size)[0], expected) == 1.0
    assert merged.scores.tolist() == pytest.approx([0.8])
    assert merged.labels.tolist() == [3]
    points = np.argwhere(expected)
    tight = [*points.min(axis=0)[::-1], *(points.max(axis=0) + 1)[::-1]]
    assert merged.boxes.tolist() == [tight]


def test_an_ellipse_cut_by_four_windows_is_restored() -> None:
    size = (112, 112)
    expected = ellipse(size, 55, 58, 50, 45, 0.6)
    frames = [(0, 0, 64, 64), (48, 0, 112, 64), (0, 48, 64, 112), (48, 48, 112, 112)]
    merged = merge_instances(
        [window(frame, (expected, 0.5 + i / 10, 1)) for i, frame in enumerate(frames)], size
    )
    assert len(merged) == 1
    assert compute_iou(bitmaps(merged, size)[0], expected) >= 0.99
    assert merged.scores.tolist() == pytest.approx([0.8])


@pytest.mark.parametrize("overlap", [0, 25])
def test_two_touching_objects_stay_two(overlap: int) -> None:
    """Both are cut, they touch along the line y = 50, and each is restored."""
    size = (100, 200 - overlap)
    upper, lower = ellipse(size, 90, 25, 70, 25), ellipse(size, 90, 75, 70, 25)
    frames: list[Frame] = [LEFT, (100 - overlap, 0, 200 - overlap, 100)]
    merged = merge_instances([window(f, (upper, 0.9, 0), (lower, 0.7, 0)) for f in frames], size)
    found = bitmaps(merged, size)
    assert len(found) == 2
    assert compute_iou(found[0], upper) == 1.0
    assert compute_iou(found[1], lower) == 1.0


def test_crossing_bars_with_the_same_box_stay_two() -> None:
    """Their boxes agree along the border; inside the overlap their masks do not."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    rising = np.abs(rows - columns * 0.4 - 15) < 4
    falling = np.abs(rows - (70 - columns * 0.4) - 15) < 4
    boxes = []
    merged = merge_instances(
        [window(LEFT, (rising, 0.9, 0)), window(RIGHT, (falling, 0.8, 0))], SIZE
    )
    boxes = merged.boxes
    assert len(merged) == 2
    assert np.abs(boxes[:, [0, 2]] - [[0, 100], [75, 175]]).max() == 0


def test_a_pair_of_objects_at_the_border_of_touching_windows_stays_two() -> None:
    """One ends where the other begins, in different rows."""
    size = (100, 200)
    one, other = ellipse(size, 70, 20, 30, 15), ellipse(size, 130, 75, 30, 20)
    merged = merge_instances(
        [window(f, (one, 0.9, 0), (other, 0.8, 0)) for f in (LEFT, (100, 0, 200, 100))], size
    )
    assert len(merged) == 2


def test_duplicates_are_dropped_by_mask_and_per_class() -> None:
    first, second = ellipse(SIZE, 87, 50, 9, 20), ellipse(SIZE, 88, 50, 9, 20)
    rows = [window(LEFT, (first, 0.6, 0)), window(RIGHT, (second, 0.8, 0))]
    merged = merge_instances(rows, SIZE)
    assert merged.scores.tolist() == pytest.approx([0.8])
    assert compute_iou(bitmaps(merged, SIZE)[0], second) == 1.0
    others = [window(LEFT, (first, 0.6, 0)), window(RIGHT, (second, 0.8, 1))]
    assert len(merge_instances(others, SIZE)) == 2
    # Objects with nearly the same box and few common pixels are two.
    rows_, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = (np.abs(columns - 87) < 10) & (np.abs(rows_ - 50) < 10)
    rising, falling = (
        inside & (np.abs((rows_ - 50) + sign * (columns - 87)) < 4) for sign in (1, -1)
    )
    merged = merge_instances(
        [window(LEFT, (rising, 0.9, 0)), window(RIGHT, (falling, 0.8, 0))], SIZE
    )
    assert len(merged) == 2


def test_a_piece_gives_way_to_the_window_that_shows_the_whole_object() -> None:
    whole = ellipse(SIZE, 100, 50, 20, 25)
    merged = merge_instances([window(LEFT, (whole, 0.95, 0)), window(RIGHT, (whole, 0.6, 0))], SIZE)
    assert merged.scores.tolist() == pytest.approx([0.6])
    assert compute_iou(bitmaps(merged, SIZE)[0], whole) == 1.0


def test_instances_without_pixels_are_compared_by_their_box() -> None:
    empty = encode_bitmap(np.zeros(SIZE, np.bool_), SIZE)
    rows = [
        InstanceSegmentation(
            np.asarray([[80, 10, 95, 20]], np.float32),
            np.asarray([score], np.float32),
            np.zeros(1, np.int64),
            (empty,),
        )
        for score in (0.5, 0.4)
    ]
    windows = [WindowDetections(r, f) for r, f in zip(rows, (LEFT, RIGHT), strict=True)]
    merged = merge_instances(windows, SIZE)
    assert merged.scores.tolist() == pytest.approx([0.5])
    assert merged.segmentations == (empty,)


def test_no_instances_stay_none() -> None:
    merged = merge_instances([window(LEFT), window(RIGHT)], SIZE)
    assert merged.boxes.shape == (0, 4)
    assert merged.segmentations == ()
    assert merged.labels.dtype == np.int64


def test_perfect_instances_of_every_window_give_the_objects_back() -> None:
    """Touching ellipses of all sizes, seen by each window as far as it reaches."""
    rng = np.random.default_rng(0)
    size, grid = (400, 500), WindowGrid(128, 128, 0.25)
    objects = [
        ellipse(size, x + 50, y + 50, *rng.uniform(8, 49, 2))
        for y in range(0, 400, 100)
        for x in range(0, 500, 100)
    ]
    windows = [
        window(tile.box, *((bitmap, 0.9, 0) for bitmap in objects))
        for tile in grid.make_tiles(size)
    ]
    merged = merge_instances(windows, size)
    assert len(merged) == len(objects)
    found = bitmaps(merged, size)
    best: Sequence[float] = [max(compute_iou(a, b) for b in found) for a in objects]
    assert min(best) >= 0.99


def test_real_nuclei_cut_by_windows_are_restored(shared_data: Path) -> None:
    """Masks of the first images of the validation split, many of them touching."""
    folder = shared_data / "dsb2018"
    num_objects = 0
    for image_id in (folder / "val.txt").read_text(encoding="utf-8").split()[:12]:
        files = sorted((folder / "stage1_train" / image_id / "masks").glob("*.png"))
        nuclei = [np.asarray(Image.open(file).convert("L")) > 0 for file in files]
        nuclei = [nucleus for nucleus in nuclei if nucleus.sum() > 30]
        size = (nuclei[0].shape[0], nuclei[0].shape[1])
        grid = WindowGrid(max(96, size[0] // 3), max(96, size[1] // 3), 0.25)
        rows = [(nucleus, 0.9, 0) for nucleus in nuclei]
        merged = merge_instances([window(t.box, *rows) for t in grid.make_tiles(size)], size)
        assert len(merged) == len(nuclei), image_id
        expected = [encode_bitmap(nucleus, size) for nucleus in nuclei]
        overlaps = compute_mask_iou(merged.segmentations, expected)
        assert overlaps.max(axis=0).min() >= 0.99, image_id
        num_objects += len(nuclei)
    assert num_objects > 300
