"""Coverage of intervals: simulated metrics by a slow evaluation, known intervals, resumption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.__main__ import main
from benchmarks.coverage import TESTS
from benchmarks.harness.interval_methods import METHODS, draw, draw_without_replacement
from benchmarks.harness.simulated_evaluations import DetectionSetting, SegmentationSetting


def slow_ap(hits: NDArray[np.bool_], scores: NDArray[np.float64], objects: int) -> float:
    """COCO's average precision of one class at one threshold."""
    hits = hits[np.argsort(-scores, kind="stable")]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    recall = hits.cumsum() / objects
    return float(
        np.mean([max(precision[recall >= level], default=0.0) for level in np.linspace(0, 1, 101)])
    )


def test_simulated_ap_is_that_of_a_slow_evaluation() -> None:
    """One class, all objects in one image: the draws of the setting are repeated by hand."""
    setting = DetectionSetting(shares=(1.0,), objects=30.0, false_positives=20.0)
    (evaluation,) = setting.simulate(np.random.default_rng(0), 1)
    rng = np.random.default_rng(0)
    image = rng.normal(size=1)
    number = rng.poisson(30.0, size=1)[0]
    rng.choice(1, size=number, p=(1.0,))
    difficulty = image + 0.7 * rng.normal(size=number)
    is_found = rng.random(number) < 1 / (1 + np.exp(difficulty - 2))
    iou = 1 / (1 + np.exp(-(1.6 - 0.6 * difficulty + 0.6 * rng.normal(size=number))))
    scores = 1.5 - 0.6 * difficulty + 0.8 * rng.normal(size=number)
    others = rng.poisson(20.0 * np.exp(0.3 * image - 0.045))[0]
    rng.choice(1, size=others, p=(1.0,))
    false_scores = 0.9 * rng.normal(size=others) + 0.2 * image
    all_scores = np.concatenate((scores[is_found], false_scores))
    all_iou = np.concatenate((iou[is_found], np.zeros(others)))
    expected = [slow_ap(all_iou >= t / 100, all_scores, number) for t in range(50, 100, 5)]
    metrics = evaluation.resample(np.ones((1, 1), np.float32))[0]
    assert metrics == pytest.approx([np.mean(expected), expected[0], np.mean(expected)], abs=1e-12)


def test_better_models_of_the_same_images_have_higher_metrics() -> None:
    ones = np.ones((2000, 1), np.float32)
    for setting in (DetectionSetting(), SegmentationSetting()):
        evaluations = setting.simulate(np.random.default_rng(0), 2000, (0.0, 0.0, 0.5))
        first, equal, better = (evaluation.resample(ones)[0] for evaluation in evaluations)
        assert (np.abs(equal - first) < (better - first) / 2)[:2].all()


def test_iou_and_dice_of_an_absent_class_are_undefined() -> None:
    (evaluation,) = SegmentationSetting().simulate(np.random.default_rng(0), 40)
    weights = np.ones((40, 2), np.float32)
    weights[:, 1] = 0
    metrics = evaluation.resample(weights)
    assert 0 < metrics[0, 0] < metrics[0, 1] < 1  # Dice is above IoU
    assert np.isnan(metrics[1]).all()


def test_draws_have_the_numbers_of_images_that_their_names_say() -> None:
    counts = draw_without_replacement(np.random.default_rng(0), 41, 10, 300)
    assert (counts.sum(axis=1) == 10).all()

    class Mean:
        """The first image alone has a value; the metric is the number of drawn images."""

        def resample(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
            return weights.sum(axis=0)[:, None].astype(np.float64)

    draws = draw(Mean(), np.random.default_rng(0), 40, 7).select(0)
    assert draws.estimate == 40
    for values, number in (
        (draws.bootstrap, 40), (draws.smaller, 20), (draws.halves, 20), (draws.quarters, 10),
        (draws.groups, 39), (draws.nested[:, 0], 40), (draws.nested[:, 1:], 36),
    ):  # fmt: skip
        assert (values == number).all()
    assert (draws.halves.shape, draws.groups.shape, draws.nested.shape) == ((7,), (40,), (100, 11))


def test_all_methods_agree_on_a_mean_of_many_images() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, 500)

    class Mean:
        def resample(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
            return (values @ weights / weights.sum(axis=0))[:, None]

    draws = draw(Mean(), rng, 500, 1500).select(0)
    error = values.std() / np.sqrt(500)
    for name, method in METHODS.items():
        if name == "studentized":  # only of few images
            assert np.isnan(method(draws, 500)).all()
            continue
        ends = method(draws, 500)
        # Of 1,500 draws, of 100 groups of images, and widened for 500 images.
        assert ends == pytest.approx(
            values.mean() + error * np.array((-1.96, 1.96)), abs=0.4 * error
        )


def test_command_writes_tables_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["coverage", "--settings", "three classes", "--out", str(tmp_path), "--images", "40"]
    words += ["--resamples", "50", "--true-datasets", "2", "--datasets"]
    assert main([*words, "60"]) == 0
    first = json.loads((tmp_path / "coverage.json").read_text())["rows"]
    assert [row["metric"] for row in first] == ["mIoU", "Dice", "IoU of the rarest class"]
    for row in first:
        assert row["datasets"] == 60
        assert set(row["methods"]) == set(METHODS)
        assert all(0.6 < method["covered"] <= 1 for method in row["methods"].values())
    shown = capsys.readouterr().out
    assert "| method: lowest / mean coverage, % | mIoU, 40 images |" in shown
    assert "| three classes, Dice |" in shown
    parts = sorted((tmp_path / "intervals").iterdir())
    assert len(parts) == 2
    changed = parts[0].stat().st_mtime_ns
    parts[1].unlink()  # as if stopped before it was finished
    assert main([*words, "60"]) == 0
    assert json.loads((tmp_path / "coverage.json").read_text())["rows"] == first
    assert parts[0].stat().st_mtime_ns == changed


def test_paired_tests_have_size_and_power(tmp_path: Path) -> None:
    words = ["coverage", "--paired", "--settings", "many classes", "--images", "100"]
    words += ["--datasets", "50", "--resamples", "100", "--out", str(tmp_path)]
    assert main(words) == 0
    for row in json.loads((tmp_path / "paired.json").read_text())["rows"][:2]:
        for test in TESTS:
            assert row["tests"][test]["size"] < 0.25 < row["tests"][test]["power"]


def test_an_unknown_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coverage", "--settings", "dark", "--out", str(tmp_path)]) == 2
    assert "--settings: 'dark' is unknown; allowed: one class, " in capsys.readouterr().err
