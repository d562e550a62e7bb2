"""Surface distances: hand-computed outlines, empty cases, spacing, equality with brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.protocols.surface_distance import (
    SurfaceEvaluator,
    SurfaceOptions,
    compute_surface_distances,
    extract_outline,
)
from resnet_tasks.structures.evaluation import VOID, GroundTruth
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap

BG = ("background", "organ")


def predicted(labels: NDArray[np.int64]) -> SegmentationMap:
    tensor = torch.from_numpy(labels)
    return SegmentationMap(tensor, torch.zeros(1, *tensor.shape))


def truth(
    labels: NDArray[np.int64], image_id: int = 1, spacing: tuple[float, float] | None = None
) -> GroundTruth:
    height, width = labels.shape
    return GroundTruth(image_id, (height, width), semantic=labels, spacing=spacing)


def square(top: int, left: int, size: int, frame: int = 40) -> NDArray[np.int64]:
    labels = np.zeros((frame, frame), np.int64)
    labels[top : top + size, left : left + size] = 1
    return labels


def value(evaluator: Any, name: str) -> float | None:
    found: float | None = evaluator.compute()[name].value
    return found


def test_outline_is_what_touches_the_outside_by_an_edge() -> None:
    mask = np.ones((4, 5), np.bool_)
    mask[0, 0] = False
    assert extract_outline(mask).astype(int).tolist() == [
        [0, 1, 1, 1, 1],
        [1, 0, 0, 0, 1],
        [1, 0, 0, 0, 1],
        [1, 1, 1, 1, 1],
    ]
    assert not extract_outline(np.zeros((3, 3), np.bool_)).any()


def test_single_pixels_by_hand() -> None:
    one, other = np.zeros((9, 9), np.bool_), np.zeros((9, 9), np.bool_)
    one[1, 1], other[4, 5] = True, True
    assert compute_surface_distances(one, other) == ([5.0], [5.0])
    found = compute_surface_distances(one, other, spacing=(2.0, 0.5))
    assert found is not None
    assert found[0] == pytest.approx([math.hypot(6, 2)])
    assert compute_surface_distances(one, np.zeros_like(one)) is None


def test_a_shifted_square_by_hand() -> None:
    """A 3 x 3 square, 4 px to the right: its 8 outline pixels lie 4, 3 and 2 px off (3, 2, 3)."""
    evaluator = SurfaceEvaluator(BG, SurfaceOptions(tolerance=3.0))
    evaluator.update(predicted(square(5, 9, 3)), truth(square(5, 5, 3)))
    metrics = evaluator.compute()
    distances = sorted([4, 4, 4, 3, 3, 2, 2, 2])
    assert metrics["HD95"].value == np.percentile(distances, 95) == 4
    assert metrics["HD95"].per_class == {"organ": 4.0}
    assert (metrics["HD95"].unit, metrics["HD95"].lower_is_better) == ("px", True)
    assert metrics["NSD"].value == 5 / 8
    assert (metrics["NSD"].unit, metrics["NSD"].lower_is_better) == ("", False)


def test_spacing_gives_millimeters() -> None:
    evaluator = SurfaceEvaluator(BG, SurfaceOptions(tolerance=0.4))
    evaluator.update(predicted(square(5, 9, 1)), truth(square(5, 5, 1), spacing=(3.0, 0.1)))
    metric = evaluator.compute()["HD95"]
    assert (metric.value, metric.unit) == (pytest.approx(0.4), "mm")
    assert value(evaluator, "NSD") == 1.0  # 4 x 0.1 is 0.4 but for rounding
    assert "distances in mm" in evaluator.protocol
    assert "within 0.4 mm" in evaluator.protocol


def test_empty_cases() -> None:
    nothing = np.zeros((40, 40), np.int64)
    evaluator = SurfaceEvaluator(BG)
    assert (value(evaluator, "HD95"), value(evaluator, "NSD")) == (None, None)
    evaluator.update(predicted(nothing), truth(nothing))  # absent from both: not counted
    assert (value(evaluator, "HD95"), value(evaluator, "NSD")) == (None, None)
    evaluator.update(predicted(square(5, 5, 9)), truth(square(5, 5, 9), 2))
    assert (value(evaluator, "HD95"), value(evaluator, "NSD")) == (0.0, 1.0)
    evaluator.update(predicted(nothing), truth(square(5, 5, 9), 3))  # missed
    evaluator.update(predicted(square(5, 5, 9)), truth(nothing, 4))  # invented
    diagonal = math.hypot(40, 40)
    assert value(evaluator, "HD95") == pytest.approx(2 * diagonal / 3)
    assert value(evaluator, "NSD") == pytest.approx(1 / 3)
    note = evaluator.details()["notes"][0]
    assert note.startswith("Surfaces: 3 outlines of a class in an image; 2 of them are only")


def test_void_pixels_are_taken_out_of_both() -> None:
    expected = square(5, 5, 9)
    expected[:, 20:] = VOID
    found = square(5, 5, 9)
    found[:, 25:] = 1  # all of it where nothing is judged
    evaluator = SurfaceEvaluator(BG)
    evaluator.update(predicted(found), truth(expected))
    assert (value(evaluator, "HD95"), value(evaluator, "NSD")) == (0.0, 1.0)


def test_classes_without_background_are_all_judged() -> None:
    labels = np.zeros((6, 6), np.int64)
    labels[:, 3:] = 1
    evaluator = SurfaceEvaluator(("road", "sky", "never"))
    evaluator.update(predicted(labels), truth(labels))
    assert evaluator.compute()["NSD"].per_class == {"road": 1.0, "sky": 1.0, "never": None}


def test_equals_brute_force_on_random_masks() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        masks = generator.random((2, 12, 15)) < generator.uniform(0.05, 0.9)
        spacing = tuple(generator.uniform(0.2, 3, 2))
        made = compute_surface_distances(masks[0], masks[1], (float(spacing[0]), float(spacing[1])))
        assert made is not None
        points = [np.argwhere(brute_outline(mask)) * spacing for mask in masks]
        apart = np.sqrt(((points[0][:, None] - points[1][None]) ** 2).sum(axis=2))
        assert sorted(made[0]) == pytest.approx(sorted(apart.min(axis=1)))
        assert sorted(made[1]) == pytest.approx(sorted(apart.min(axis=0)))


def brute_outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    edge: NDArray[np.bool_] = mask & ~np.logical_and.reduce(sides)
    return edge


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_equals_monai() -> None:
    monai = pytest.importorskip("monai.metrics", reason="needs `pip install monai` to compare with")
    generator = np.random.default_rng(3)
    for _ in range(5):
        low = generator.random((2, 8, 8)) < 0.5
        first, second = (np.kron(mask, np.ones((6, 6))).astype(np.int64) for mask in low)
        spacing = tuple(float(each) for each in generator.uniform(0.3, 2, 2))
        evaluator = SurfaceEvaluator(BG, SurfaceOptions(tolerance=2.0))
        evaluator.update(predicted(first), truth(second, spacing=(spacing[0], spacing[1])))
        pair = [
            torch.nn.functional.one_hot(torch.from_numpy(each), 2).permute(2, 0, 1)[None]
            for each in (first, second)
        ]
        distance = monai.HausdorffDistanceMetric(include_background=False, percentile=95)
        dice = monai.SurfaceDiceMetric([2.0], include_background=False)
        expected = float(distance(*pair, spacing=spacing))
        assert value(evaluator, "HD95") == pytest.approx(expected, rel=1e-5)
        assert value(evaluator, "NSD") == pytest.approx(float(dice(*pair, spacing=spacing)))


def test_resampled_data_sets_are_weighted_means() -> None:
    evaluator = SurfaceEvaluator(BG)
    nothing = np.zeros((40, 40), np.int64)
    for i, shift in enumerate((0, 1, 7)):
        evaluator.update(predicted(square(5, 5 + shift, 1)), truth(square(5, 5, 1), i))
    evaluator.update(predicted(nothing), truth(nothing, 3))
    drawn = evaluator.resample(np.array([[1, 1, 1, 1], [0, 3, 1, 0], [0, 0, 0, 4]]))
    assert drawn["HD95"] == pytest.approx([8 / 3, (3 + 7) / 4, math.nan], nan_ok=True)
    assert drawn["HD95/organ"] == pytest.approx([8 / 3, (3 + 7) / 4, math.nan], nan_ok=True)
    assert drawn["NSD"] == pytest.approx([2 / 3, 3 / 4, math.nan], nan_ok=True)
    assert evaluator.image_ids == (0, 1, 2, 3)


def test_images_with_and_without_spacing_do_not_mix() -> None:
    labels = square(5, 5, 3)
    evaluator = SurfaceEvaluator(BG)
    evaluator.update(predicted(labels), truth(labels, 1, (1.0, 1.0)))
    with pytest.raises(DataError, match=r"image 2 has no spacing, unlike the images before it"):
        evaluator.update(predicted(labels), truth(labels, 2))
    pixels = SurfaceEvaluator(BG, SurfaceOptions(unit="px"))
    pixels.update(predicted(labels), truth(labels, 1, (9.0, 9.0)))
    pixels.update(predicted(square(5, 6, 3)), truth(labels, 2))
    assert pixels.compute()["HD95"].unit == "px"
    assert value(pixels, "HD95") == 0.5
    with pytest.raises(
        DataError, match=r"image 3 has no spacing, but distances are requested in mm"
    ):
        SurfaceEvaluator(BG, SurfaceOptions(unit="mm")).update(predicted(labels), truth(labels, 3))
    with pytest.raises(DataError, match="image 2 is evaluated twice"):
        pixels.update(predicted(labels), truth(labels, 2))
