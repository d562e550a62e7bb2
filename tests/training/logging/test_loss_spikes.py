"""Spikes of one step are logged; only a loss that rises and stays high is printed."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from resnet_tasks.training.logging.loss_spikes import (
    LossIncrease,
    LossIncreaseDetector,
    LossSpike,
    LossSpikeDetector,
)
from resnet_tasks.training.logging.run_log import RunLog


def test_a_leap_is_flagged_with_its_deviations() -> None:
    watch = LossSpikeDetector()
    for i in range(20):
        assert watch.detect({"a/x": 1.0 if i % 2 else 3.0, "b/y": 5.0}) == []
    # Mean 2, sample deviation sqrt(20 / 19).
    (spike,) = watch.detect({"a/x": 12.0, "b/y": 5.0})
    assert (spike.term, spike.value, spike.mean) == ("a/x", 12.0, 2.0)
    assert spike.deviations == pytest.approx(10 / (20 / 19) ** 0.5)


def test_neither_falling_nor_constant_nor_early_losses_are_spikes() -> None:
    watch = LossSpikeDetector()
    assert watch.detect({"a": 1.0}) == []
    assert watch.detect({"a": 1000.0}) == []
    falling = LossSpikeDetector()
    assert not any(falling.detect({"a": 5.0 * 0.97**i}) for i in range(200))
    constant = LossSpikeDetector()
    assert not any(constant.detect({"a": 1.0 + 1e-3 * (i == 50)}) for i in range(60))


def detect_all(losses: Sequence[float]) -> list[LossIncrease]:
    """Return the increases of one head's losses, with the step that reported each as an image."""
    detector = LossIncreaseDetector()
    return [
        replace(increase, image_ids=(*increase.image_ids, step))
        for step, loss in enumerate(losses)
        for increase in detector.detect(step, {"a": loss}, [f"image {step}"])
    ]


def make_noisy_losses(steps: int, seed: int) -> NDArray[np.float64]:
    """Return a falling loss with skewed noise, as small batches have it: most spikes reach 3x."""
    generator = np.random.default_rng(seed)
    levels = 0.3 + np.exp(-np.arange(steps) / 300)
    noise: NDArray[np.float64] = levels * generator.lognormal(0, 0.35, steps)
    return noise


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_healthy_loss_has_no_increase(seed: int) -> None:
    losses = make_noisy_losses(2_000, seed)
    losses[::97] *= 10  # batches with a hard or mislabeled image
    assert detect_all(losses.tolist()) == []


@pytest.mark.parametrize("factor", [5, 10, 1e6])
@pytest.mark.parametrize("seed", range(5))
def test_a_lasting_increase_is_reported_within_few_steps(seed: int, factor: float) -> None:
    losses = make_noisy_losses(600, seed)
    losses[400:] *= factor
    increase, *others = detect_all(losses.tolist())
    first_image, report = increase.image_ids
    assert increase.update in range(400, 404)
    assert first_image == f"image {increase.update}"
    assert report in range(402, 405)
    assert increase.before == pytest.approx(np.median(losses[300:400]), rel=0.1)
    assert increase.after > 2 * increase.before
    assert others == []


def test_a_diverging_loss_is_reported() -> None:
    losses = [1.0] * 50 + [1.03**i for i in range(60)]
    assert [increase.update for increase in detect_all(losses)] == [pytest.approx(66, abs=3)]


def test_short_and_constant_losses_have_no_increase() -> None:
    assert detect_all([1.0] * 19 + [50.0] * 5) == []  # fewer than 20 steps before it
    assert detect_all([1.0] * 50 + [1.4] * 50) == []  # far above the noise, but not by half
    assert detect_all([0.0] * 50 + [9.0, 9.0] + [0.0] * 50) == []
    assert [i.before for i in detect_all([-2.0] * 50 + [1.0] * 50)] == [-2.0]


def test_heads_are_compared_one_by_one() -> None:
    """A head that few images are annotated for is compared with its own last steps."""
    detector = LossIncreaseDetector()
    increases = []
    for step in range(400):
        losses = {"large": 1000.0 + step % 7}
        if step % 4 == 0:
            losses["rare"] = 0.1 if step < 300 else 0.5
        increases += detector.detect(step, losses, [step])
    assert [(i.head, i.update, i.before, i.after) for i in increases] == [("rare", 300, 0.1, 0.5)]


def test_the_log_has_all_spikes_and_increases_and_the_console_one_increase_per_epoch(
    tmp_path: Path,
) -> None:
    console = Console(file=io.StringIO(), width=400)
    run_log = RunLog(tmp_path, console)
    spike = LossSpike("a/x", 9.0, 1.0, 8.0)
    for update, epoch in ((3, 1), (4, 1), (8, 2)):
        run_log.log_spike(update, epoch, spike, [7, "b"])
        run_log.log_increase(epoch, LossIncrease("a", update, 0.5, 9.25, tuple(range(10, 18))))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    spikes = [line for line in lines if line["event"] == "spike"]
    assert [(line["update"], line["image_ids"]) for line in spikes] == [
        (3, [7, "b"]),
        (4, [7, "b"]),
        (8, [7, "b"]),
    ]
    increases = [line for line in lines if line["event"] == "loss_increase"]
    assert [(line["update"], line["epoch"]) for line in increases] == [(3, 1), (4, 1), (8, 2)]
    assert increases[0]["image_ids"] == list(range(10, 18))
    first, second = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first.startswith(
        "warning: epoch 1: the loss of head a rose from 0.5 to 9.25 at update 3"
    )
    assert first.endswith("images: 10, 11, 12, 13, 14 and 3 more")
    assert second.startswith(
        "warning: epoch 2: the loss of head a rose from 0.5 to 9.25 at update 8"
    )
