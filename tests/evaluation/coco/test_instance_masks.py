"""Mask evaluation: equal to pycocotools, and nothing of a mask stays in memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.ground_truth import build_truth
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.instance_masks import InstanceMaskEvaluator
from resnet_tasks.structures.evaluation import GroundTruth

SQUARE = [[0.0, 0.0, 20.0, 0.0, 20.0, 20.0, 0.0, 20.0]]
HALF = [[0.0, 0.0, 20.0, 0.0, 20.0, 12.0, 0.0, 12.0]]


def truth(*polygons: list[list[float]] | None, image_id: int | str = 1) -> GroundTruth:
    number = len(polygons)
    boxes = np.tile([0.0, 0.0, 20.0, 20.0], (number, 1))
    labels = np.zeros(number, np.int64)
    return GroundTruth(image_id, (40, 50), boxes, labels, segmentations=polygons)


def test_by_hand() -> None:
    """IoU 240/400 = 0.6 counts at 0.50, 0.55 and 0.60."""
    evaluator = InstanceMaskEvaluator(("a",))
    evaluator.update_masks([HALF], [0], [0.9], truth(SQUARE))
    metrics = evaluator.compute()
    assert metrics["AP"].value == pytest.approx(0.3, abs=1e-12)
    assert metrics["AP50"].value == pytest.approx(1.0, abs=1e-12)
    flags = np.zeros((1, 40, 50), np.bool_)
    flags[0, :20, :20] = True
    evaluator.update_masks(flags, [0], [0.95], truth(SQUARE, image_id="second"))
    assert evaluator.compute()["AP75"].value == pytest.approx(51 / 101, abs=1e-12)
    assert "iouType segm" in evaluator.protocol


@pytest.mark.parametrize("with_boxes", [False, True])
def test_equals_pycocotools_on_real_masks(shared_data: Path, with_boxes: bool) -> None:
    coco = read_coco(shared_data / "coco_tiny/annotations/instances_val2017.json")
    names = coco.categories.names
    evaluators = [
        InstanceMaskEvaluator(names, backend=backend) for backend in ("hotcoco", "pycocotools")
    ]
    generator = np.random.default_rng(0)
    for record in reversed(coco.images[:50]):
        expected = build_truth(coco, record, record.id, range(len(names)))
        assert expected.labels is not None
        masks = [
            np.roll(decode_mask(each, *expected.size), generator.integers(-6, 7, 2), (0, 1))
            for each in expected.segmentations or ()
            for _ in range(2)
        ]
        labels = np.repeat(expected.labels, 2)
        scores = np.round(generator.random(len(masks)), 1)
        boxes = generator.uniform(20, 120, (len(masks), 4)) if with_boxes else None
        for evaluator in evaluators:
            evaluator.update_masks(masks, labels, scores, expected, boxes=boxes)
    compiled, reference = (evaluator.compute() for evaluator in evaluators)
    assert compiled == reference
    assert 0.2 < (compiled["AP"].value or 0) < 0.9
    details = evaluators[0].details()
    assert len(details["images"]) == 50
    assert details["confusion"] == evaluators[1].details()["confusion"]


@pytest.mark.parametrize("keeps_masks", [False, True])
def test_images_with_many_detections(keeps_masks: bool) -> None:
    """300 detections of one object: the first one finds it."""
    evaluator = InstanceMaskEvaluator(("a",), max_detections=(1, 10, 300), keeps_masks=keeps_masks)
    evaluator.update_masks([SQUARE] * 300, [0] * 300, [0.5] * 300, truth(SQUARE))
    assert evaluator.compute()["AP"].value == pytest.approx(1.0)


def test_refusals_name_the_image() -> None:
    evaluator = InstanceMaskEvaluator(("a",))
    with pytest.raises(DataError, match=r"image 1: a mask has size \(3, 3\) .* \(40, 50\)"):
        evaluator.update_masks(np.zeros((1, 3, 3), np.bool_), [0], [0.9], truth(SQUARE))
    with pytest.raises(DataError, match=r"image 1: RLE .* does not fit"):
        evaluator.update_masks([{"size": [3, 3], "counts": [9]}], [0], [0.9], truth(SQUARE))
    with pytest.raises(DataError, match=r"image 1: an annotation \(number 1\) has no mask"):
        evaluator.update_masks([], [], [], truth(SQUARE, None))
    with pytest.raises(DataError, match="image 9 has no annotated masks"):
        evaluator.update_masks(
            [], [], [], GroundTruth(9, (4, 4), np.zeros((1, 4)), np.zeros(1, np.int64))
        )
    with pytest.raises(DataError, match="non-finite score"):
        evaluator.update_masks([SQUARE], [0], [float("nan")], truth(SQUARE))
    assert evaluator.compute()["AP"].value is None
    evaluator.update_masks([SQUARE], [0], [0.9], truth(SQUARE))
    with pytest.raises(DataError, match="'pycocotools' is set too late: 1 image was already"):
        evaluator.backend = "pycocotools"


def test_memory_does_not_grow_with_images() -> None:
    """Images of 12 megapixels: a mask takes 12 MB as flags, 16 KB as run lengths."""
    height, width = 3000, 4000
    generator = np.random.default_rng(0)
    evaluator = InstanceMaskEvaluator(("a",))

    def judge(first: int, last: int) -> None:
        for image_id in range(first, last):
            # A ragged edge: every column is outside for a while, half of it inside, then outside.
            above = generator.integers(1, height // 2, width)
            below = height // 2 - above
            outside = np.concatenate((above, [0])) + np.concatenate(([0], below))
            runs = np.column_stack((outside, np.full(width + 1, height // 2))).ravel()
            counts = runs[:-1].tolist()
            mask = {"size": [height, width], "counts": counts}
            expected = GroundTruth(
                image_id,
                (height, width),
                np.array([[0.0, 0.0, width, height]]),
                np.zeros(1, np.int64),
                segmentations=(mask,),
            )
            evaluator.update_masks([mask] * 4, [0] * 4, [0.9, 0.8, 0.7, 0.6], expected)

    judge(0, 10)
    tracemalloc.start()
    judge(10, 12)
    traced, resident = tracemalloc.get_traced_memory()[0], resident_bytes()
    judge(12, 72)
    grown = tracemalloc.get_traced_memory()[0] - traced
    tracemalloc.stop()
    assert grown < 60 * 5_000, f"{grown / 60:.0f} bytes an image"
    # What the compiled evaluator holds is not traced; five masks an image take 80 KB.
    assert resident_bytes() - resident < 60 * 80_000 * 0.6
    assert evaluator.compute()["AP"].value == pytest.approx(1.0)


def resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("resident memory is read from /proc")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_error_types_need_the_masks() -> None:
    """IoU 0.3 with the only object: a localization error. Fixing it gains the whole AP."""
    third = [[0.0, 0.0, 20.0, 0.0, 20.0, 6.0, 0.0, 6.0]]
    for keeps_masks in (False, True):
        evaluator = InstanceMaskEvaluator(("a",), keeps_masks=keeps_masks)
        evaluator.update_masks([third], [0], [0.9], truth(SQUARE))
        details = evaluator.details()
        if not keeps_masks:
            assert "error_types" not in details
            assert "are not computed, because the masks are not stored" in details["notes"][0]
            continue
        assert details["error_types"]["Loc"] == pytest.approx(1.0)
        assert details["error_types"]["Bkg"] == 0.0
        assert evaluator.details() == details
