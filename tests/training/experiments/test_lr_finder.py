"""The learning-rate finder: what a curve says, and a sweep on drawn cells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.errors import RunError
from resnet_tasks.training.experiments.lr_finder import (
    CLEAR_FALL,
    analyze_sweep,
    measure_fall,
    smooth_losses,
)
from tests.support.half_bright import RIGHT_HALF, write_recipe, write_split

RATES = [10.0**k for k in range(-5, 1)]


def test_smoothing_by_hand() -> None:
    # The second mean weighs 0.09 and 0.1 of 0.19.
    assert smooth_losses([1.0, 3.0]) == pytest.approx([1.0, 0.39 / 0.19])
    assert smooth_losses([2.0] * 5) == pytest.approx([2.0] * 5)


def test_the_steepest_fall_is_suggested(tmp_path: Path) -> None:
    losses = [*[10.0] * 10, 9.0, 5.0, 0.0, 0.0, 0.0, 300.0]
    rates = [float(rate) for rate in np.geomspace(1e-5, 1, 16)]
    found = analyze_sweep(rates, losses, is_diverged=True)
    # Central differences of the smoothed means are largest between 5 and 0.
    slopes = np.gradient(found.smoothed, np.log10(rates))[:15]
    assert rates[int(np.argmin(slopes))] == found.suggestion == rates[12]
    assert found.lowest == rates[14]
    assert found.diverged == 1.0
    lines = found.describe().splitlines()
    assert lines[0] == "suggestion: training.learning_rate=0.1, where the smoothed loss"
    assert f"{min(found.smoothed):.4g} (smoothed loss) at a rate of 0.46" in lines[2]
    assert lines[3] == "end:        the loss diverged at 1, after 16 steps"
    numbers, image = found.write(tmp_path)
    assert json.loads(numbers.read_text())["suggestion"] == found.suggestion
    assert json.loads(numbers.read_text())["fall"]["start"] == found.fall.start
    assert np.asarray(Image.open(image)).std() > 0


def test_fall_and_noise_by_hand() -> None:
    fall = measure_fall([10.0] * 6 + [0.0] * 10)
    # Each of the first six losses has decayed by 0.9 in the ten steps after them.
    assert fall.size == pytest.approx(10 - 10 * 0.9**10 * (1 - 0.9**6) / (1 - 0.9**16))
    assert fall.start == 4  # the first of two equal values
    assert fall.noise == 0  # only the two losses at the jump differ from their neighbors' mean
    # Every loss differs by 2 from its neighbors' mean, whose variance adds half of its own.
    assert measure_fall([1.0, -1.0] * 8).noise == pytest.approx(2 / (1.1503 * 1.5**0.5))


@pytest.mark.parametrize("sample", ["normal", "standard_exponential"])
def test_of_curves_without_a_trend_one_in_a_hundred_has_a_clear_fall(sample: str) -> None:
    curves = getattr(np.random.default_rng(0), sample)(size=(500, 100))
    clear = sum(measure_fall(list(losses)).errors >= CLEAR_FALL for losses in curves)
    assert clear <= 5


def test_a_fall_of_three_standard_deviations_is_clear() -> None:
    trend = -3 * np.clip((np.linspace(0, 1, 100) - 0.5) / 0.25, 0, 1)
    curves = trend + np.random.default_rng(0).normal(size=(100, 100))
    assert all(measure_fall(list(losses)).errors >= CLEAR_FALL for losses in curves)


WIDE = np.geomspace(1e-6, 1, 100)
NOISE = np.random.default_rng(0).normal(size=100)
VALLEY = np.where(WIDE < 0.1, 3 - np.clip(np.log10(WIDE) + 4, 0, 2), 8) + 0.05 * NOISE


@pytest.mark.parametrize(
    ("losses", "is_diverged", "message"),
    [
        (3 + 0.3 * NOISE, False, r"none, because the curve is noise: the smoothed loss falls by\n"),
        (
            3 + 0.3 * NOISE,
            False,
            r"times its standard error \(a clear fall: 6 times\);\n +set more",
        ),
        (np.linspace(1, 2, 100), False, r"never falls;\n +set a lower --first, a higher --last or"),
        (
            np.geomspace(1, 1e4, 9),
            True,
            r"the loss never falls;\n +set a lower --first or more --steps\nmin",
        ),
        (np.geomspace(1, 1e4, 9), True, r"the loss diverged at 3\.1e-06, after 9 steps"),
        (np.linspace(3, 1, 100), False, r"up to 1, in 100 steps;\n +it still falls there, so set"),
        (VALLEY, True, r"suggestion: training\.learning_rate=0\.00\d+, where"),
        (VALLEY, True, r"minimum:    1\.\d+ \(smoothed loss\) at a rate of 0\.0\d+\n"),
    ],
)
def test_kinds_of_curves(losses: np.ndarray, is_diverged: bool, message: str) -> None:
    rates = [float(rate) for rate in WIDE[: len(losses)]]
    found = analyze_sweep(rates, [float(loss) for loss in losses], is_diverged=is_diverged)
    assert re.search(message, found.describe())
    assert max(map(len, found.describe().splitlines())) <= 80
    assert (found.suggestion is None) == ("none, because" in found.describe())


def test_a_curve_of_noise_is_written_without_a_suggestion(tmp_path: Path) -> None:
    rates = [float(rate) for rate in WIDE]
    found = analyze_sweep(rates, [float(loss) for loss in NOISE], is_diverged=False)
    numbers, image = found.write(tmp_path)
    assert json.loads(numbers.read_text())["suggestion"] is None
    assert np.asarray(Image.open(image)).std() > 0


def test_too_short_a_sweep_is_refused() -> None:
    with pytest.raises(RunError, match=r"diverged after 2 steps, at a learning rate of 0\.0001"):
        analyze_sweep(RATES, [1.0, 9.0], is_diverged=True)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Four images, half of each bright."""
    write_split(tmp_path / "a.json", dict.fromkeys("1234", RIGHT_HALF), size=(64, 64))
    training = {"optimizer": "sgd", "clip_norm": None}
    return write_recipe(tmp_path / "mine.yaml", tmp_path, training=training)


def test_a_sweep_writes_a_image_and_no_run(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    command = [
        "lr-find",
        str(recipe),
        "training.non_finite=skip",
        "--out",
        str(out),
        "--last",
        "1e6",
        "--steps",
        "60",
    ]
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    found = json.loads((out / "lr_find.json").read_text())
    # Rates of thousands without clipping break any net; the suggestion lies well below.
    assert found["diverged"] is not None
    assert found["suggestion"] < found["diverged"]
    assert len(found["losses"]) == len(found["rates"]) < 60
    assert "lr-find: 60 steps with learning rates from 1e-06 to 1e+06" in made.output
    assert "training.learning_rate=" in made.output
    assert {each.name for each in out.iterdir()} == {"lr_find.json", "lr_find.png"}
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0
    assert json.loads((out / "lr_find.json").read_text()) == found  # nothing random in it


def test_a_run_folder_and_a_senseless_range_are_refused(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    made = CliRunner().invoke(app, ["lr-find", str(recipe), "--out", str(tmp_path)])
    assert made.exit_code == 2
    assert "is a run folder; name another --out" in made.output
    made = CliRunner().invoke(app, ["lr-find", str(recipe), "--first", "2", "--last", "1"])
    assert made.exit_code == 2
    assert "from 2.0 to 1.0 in 100 steps is not possible" in made.output
