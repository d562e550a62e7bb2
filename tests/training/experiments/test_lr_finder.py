"""The learning-rate finder: what a curve says, and a sweep on drawn cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.errors import RunError
from resnet_tasks.training.experiments.lr_finder import analyze_sweep, smooth_losses
from tests.support.half_bright import RIGHT_HALF, write_recipe, write_split

RATES = [10.0**k for k in range(-5, 1)]


def test_smoothing_by_hand() -> None:
    # The second mean weighs 0.09 and 0.1 of 0.19.
    assert smooth_losses([1.0, 3.0]) == pytest.approx([1.0, 0.39 / 0.19])
    assert smooth_losses([2.0] * 5) == pytest.approx([2.0] * 5)


def test_the_steepest_fall_is_suggested(tmp_path: Path) -> None:
    found = analyze_sweep(RATES, [10.0, 10.0, 9.0, 0.0, 0.0, 300.0], is_diverged=True)
    # Smoothed means fall most between 1e-3 and 1e-2, by central differences at 1e-2.
    slopes = np.gradient(found.smoothed, np.log10(RATES))
    assert RATES[int(np.argmin(slopes))] == found.suggestion
    assert found.suggestion in (1e-3, 1e-2)
    assert found.lowest == 1e-1
    assert found.diverged == 1.0
    assert "the loss is lowest at 0.1, and the loss diverges at 1" in found.describe()
    numbers, image = found.write(tmp_path)
    assert json.loads(numbers.read_text())["suggestion"] == found.suggestion
    assert np.asarray(Image.open(image)).std() > 0


def test_a_loss_that_only_rises_suggests_nothing() -> None:
    found = analyze_sweep(RATES, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], is_diverged=False)
    assert found.suggestion is None
    assert "the loss never falls, and the sweep reached 1 without diverging" in found.describe()


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
