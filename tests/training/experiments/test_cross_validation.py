"""Folds: whole groups held out, stopped runs that go on, and numbers over all images."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.report.page import write_report
from resnet_tasks.runs.run import Run
from resnet_tasks.training.experiments.cross_validation import finetune_folds
from tests.support.half_bright import write_recipe, write_split
from tests.support.interrupting import killed_at

GROUPS = (*"aabccd", None, *"efghi", None, "d")
PER_FILE = 7


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Fourteen images in two files whose ids collide; a part of each image is bright."""
    data = tmp_path / "data"
    images = {f"{i}": [(1, _edge(i) / 64, 0.0, 1.0, 1.0)] for i in range(len(GROUPS))}
    for name, part in (("first", slice(PER_FILE)), ("second", slice(PER_FILE, None))):
        chosen = dict([*images.items()][part])
        write_split(data / f"{name}.json", chosen, groups=GROUPS[part])
    return write_recipe(
        tmp_path / "mine.yaml",
        data,
        data={
            "train": [{"annotations": "first.json"}, {"annotations": "second.json"}],
            "val": [{"annotations": "not_read.json"}],
            "allow_leaks": False,
        },
        training={"epochs": 2, "seed": 4},
        evaluation={"resamples": 20},
    )


def _edge(number: int) -> int:
    """Column from which on an image is bright."""
    return 8 * (number % 3) + 24


def _mean_iou(out: Path, data: Path) -> float:
    """Of the predictions that the folds have left, counted together."""
    both, either = np.zeros(2), np.zeros(2)
    for i in range(3):
        for path in (out / f"fold-{i}/evaluations/val/predictions").rglob("*.png"):
            found = np.asarray(Image.open(path)) == 1
            truth = np.zeros((32, 64), dtype=bool)
            truth[:, _edge(int(path.stem)) :] = True
            for k, (ours, wanted) in enumerate(((~found, ~truth), (found, truth))):
                both[k] += (ours & wanted).sum()
                either[k] += (ours | wanted).sum()
    return float((both / either).mean())


def test_every_image_is_judged_by_a_run_that_never_saw_it(recipe: Path, tmp_path: Path) -> None:
    chosen, out, said = load_recipe(recipe), tmp_path / "runs", io.StringIO()
    console = Console(file=said, width=200)

    with killed_at(1, nth=2):
        finetune_folds(chosen, 3, out=out, console=console)
    assert not (out / "folds.json").exists()
    spreads = finetune_folds(chosen, 3, out=out, console=console)
    assert "fold 0: " in said.getvalue()
    assert "is already complete" in said.getvalue()

    kept = json.loads((out / "folds.json").read_text())
    held = [
        (Path(name).name, image_id)
        for fold in kept["folds"]
        for name, ids in fold["image_ids"].items()
        for image_id in ids
    ]
    assert len(held) == len(set(held)) == len(GROUPS)
    of_group: dict[str, set[int]] = {}
    for fold in kept["folds"]:
        for name, ids in fold["image_ids"].items():
            for image_id in ids:
                number = image_id - 1 + PER_FILE * (Path(name).name == "second.json")
                of_group.setdefault(GROUPS[number] or f"{number}", set()).add(fold["fold"])
    assert all(len(folds) == 1 for folds in of_group.values())

    for i, fold in enumerate(kept["folds"]):
        judged = json.loads((out / f"fold-{i}/evaluations/val/metrics.json").read_text())
        assert judged["images"] == fold["images"]
        assert judged["folds"]["held_out"] == i
    pooled = kept["metrics"]["scene/mIoU"]["pooled"]
    assert pooled["value"] == pytest.approx(_mean_iou(out, tmp_path / "data"), abs=1e-9)
    low, high = pooled["interval"]
    assert low <= pooled["value"] <= high
    assert spreads["scene/mIoU"].mean == pytest.approx(np.mean(spreads["scene/mIoU"].values))

    # Asked again, nothing is trained or judged again.
    before = (out / "out-of-fold/metrics.json").stat().st_mtime_ns
    finetune_folds(chosen, 3, out=out, console=console)
    assert (out / "out-of-fold/metrics.json").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"fold-0 is a run of another recipe \(data differ\)"):
        finetune_folds(chosen, 4, out=out, console=console)

    # A fold's run alone is enough, wherever it lies.
    moved = tmp_path / "elsewhere"
    shutil.move(out / "fold-2", moved)
    metrics = Run.open(moved).evaluate("val").metrics
    assert metrics["scene/mIoU"].value == spreads["scene/mIoU"].values[2]
    assert write_report(moved).is_file()

    # Other data under the same name: what was held out may have been trained on.
    first = json.loads((tmp_path / "data/first.json").read_text())
    first["images"].pop()
    first["annotations"].pop()
    (tmp_path / "data/first.json").write_text(json.dumps(first))
    with pytest.raises(DataError, match=r"divided into other folds .* than when the run was start"):
        Run.open(moved).evaluate("val")


def test_a_fold_can_be_held_out_by_the_recipe_alone(recipe: Path, tmp_path: Path) -> None:
    changes = ["data.folds={count: 3, held_out: 1}", "training.epochs=1"]
    made = CliRunner().invoke(
        app, ["finetune", str(recipe), *changes, "--out", str(tmp_path / "one")]
    )
    assert made.exit_code == 0, made.output
    assert "val: held out of data.train, fold 1 of 0 to 2" in made.output
    digest = load_recipe(tmp_path / "one/recipe.yaml").data.folds.digest  # type: ignore[union-attr]
    assert digest is not None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--folds", "12", "--out", "x"], "12 parts need at least 12 groups"),
        (["--folds", "2"], "--folds needs --out DIR"),
        (["--folds", "2", "--seeds", "2", "--out", "x"], "--seeds and --folds cannot be combined"),
        (["--folds", "2", "--out", "x", "data.folds={count: 3, held_out: 0}"], "remove data.folds"),
        (["data.folds={count: 3, held_out: 3}"], "3 folds are numbered 0 to 2"),
    ],
)
def test_mistakes(
    recipe: Path,
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["finetune", str(recipe), *options])
    assert made.exit_code == 2
    assert sentence in " ".join(made.output.split())
    assert not (tmp_path / "x").exists()
