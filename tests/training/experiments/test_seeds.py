"""Several seeds: what is kept, what goes on, and the numbers over them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.errors import RunError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.training.experiments.seeds import MetricSpread, finetune_seeds, read_spreads
from tests.support.half_bright import RIGHT_HALF, write_recipe, write_split
from tests.support.interrupting import killed_at


def test_spread_by_hand() -> None:
    # Deviations from the mean 0.4 are -0.2, 0, 0.2: sqrt(0.08 / 2).
    assert MetricSpread.from_values([0.2, 0.4, 0.6]).deviation == pytest.approx(0.2)
    assert MetricSpread.from_values([0.2, None, 0.6]) == MetricSpread(
        (0.2, None, 0.6), 0.4, pytest.approx(0.08**0.5)
    )
    assert MetricSpread.from_values([None, 0.5]) == MetricSpread((None, 0.5), 0.5, None)
    assert MetricSpread.from_values([None]) == MetricSpread((None,), None, None)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two images, half of each bright."""
    write_split(tmp_path / "a.json", dict.fromkeys("12", RIGHT_HALF))
    return write_recipe(
        tmp_path / "mine.yaml",
        tmp_path,
        data={"normalize": "data"},
        training={"epochs": 2, "batch_size": 1, "seed": 4},
        evaluation={"resamples": 0},
    )


def test_finished_seeds_are_kept_and_stopped_ones_go_on(recipe: Path, tmp_path: Path) -> None:
    chosen, out, said = load_recipe(recipe), tmp_path / "runs", io.StringIO()

    with killed_at(3, nth=2):
        finetune_seeds(chosen, 3, out=out, console=Console(file=said))
    assert not (out / "seeds.json").exists()
    done = (out / "seed-4/log.jsonl").read_text()
    spreads = finetune_seeds(chosen, 3, out=out, console=Console(file=said, width=200))
    assert "seed 4: " in said.getvalue()
    assert "is already complete" in said.getvalue()
    assert (out / "seed-4/log.jsonl").read_text() == done

    logs = [(out / f"seed-{seed}/log.jsonl").read_text().splitlines() for seed in (4, 5, 6)]
    starts = [sum('"event": "start"' in line for line in lines) for lines in logs]
    assert starts == [1, 2, 1]
    kept = json.loads((out / "seeds.json").read_text())
    assert kept["seeds"] == [4, 5, 6]
    values = [
        json.loads((out / f"seed-{seed}/evaluations/val/metrics.json").read_text())["metrics"][
            "scene/mIoU"
        ]["value"]
        for seed in (4, 5, 6)
    ]
    assert kept["metrics"]["scene/mIoU"]["values"] == values
    assert kept["metrics"]["scene/mIoU"]["mean"] == pytest.approx(np.mean(values))
    assert spreads["scene/mIoU"].deviation == pytest.approx(np.std(values, ddof=1))
    assert len(set(values)) > 1, "seeds differ"

    with pytest.raises(RunError, match=r"seed-4 is a run of another recipe \(training differ\)"):
        finetune_seeds(load_recipe(recipe, ["training.epochs=3"]), 2, out=out)


def test_the_command_needs_a_folder(recipe: Path) -> None:
    made = CliRunner().invoke(app, ["finetune", str(recipe), "--seeds", "2"])
    assert made.exit_code == 2
    assert "--seeds needs --out DIR" in made.output


def test_unreadable_metrics_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"metrics\.json does not exist; recreate it"):
        read_spreads([tmp_path])
