"""One set-up serves every command: data is read once, and the recipe is final afterwards."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from resnet_tasks.assemble import split_files
from resnet_tasks.assemble.synthetic_samples import SyntheticSamples
from resnet_tasks.assemble.training_setup import TrainingSetup, check_recipe
from resnet_tasks.cli import app
from resnet_tasks.cli import train as train_commands
from resnet_tasks.errors import DataError, RecipeError, RunError
from resnet_tasks.profiling.step_profile import profile_recipe
from resnet_tasks.recipe import load as recipe_loading
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.data import NormalizeRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.run import Run
from resnet_tasks.training.experiments.lr_finder import find_learning_rate
from resnet_tasks.training.finetune_recipe import finetune_recipe
from resnet_tasks.training.logging import run_log
from tests.support.consoles import heard, quiet
from tests.support.half_bright import write_recipe, write_split
from tests.support.interrupting import killed_at

MEASURED = ("data.normalize=data", "heads.scene.options.class_weights=balanced")
SQUARE = ((1, 0.0, 0.0, 0.5, 0.5),)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path / "data"
    write_split(folder / "a.json", dict.fromkeys("abcdef", SQUARE), size=(64, 64))
    write_split(folder / "b.json", dict.fromkeys("uvw", SQUARE), size=(64, 64))
    return folder


def tiny_recipe(data: Path, *overrides: str) -> Recipe:
    file = write_recipe(
        data.parent / "tiny.yaml",
        data,
        training={"epochs": 1, "batch_size": 2, "device": "cpu", "precision": "fp32"},
        evaluation={"resamples": 0},
    )
    return load_recipe(file, ("data.val=[{annotations: b.json}]", "data.workers=0", *overrides))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Name of a COCO file -> number of times that a command has read it."""
    counts: Counter[str] = Counter()
    read_coco = split_files.read_coco

    def count_and_read(path: Path, **options: Any) -> Any:
        counts[path.name] += 1
        return read_coco(path, **options)

    monkeypatch.setattr(split_files, "read_coco", count_and_read)
    return counts


def test_every_command_reads_the_training_file_once(
    data: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    recipe = tiny_recipe(data, *MEASURED)
    finetune_recipe(recipe, dry_run=True, console=quiet())
    assert reads == {"a.json": 1, "b.json": 1}
    find_learning_rate(recipe, steps=10, console=quiet())
    assert reads == {"a.json": 2, "b.json": 2}
    profile_recipe(recipe, steps=1, warm_up=1, console=quiet())
    assert reads == {"a.json": 3, "b.json": 3}
    check_recipe(recipe)
    assert reads == {"a.json": 4, "b.json": 4}
    finetune_recipe(recipe, out=tmp_path / "run", console=quiet())
    assert reads == {"a.json": 5, "b.json": 6}  # the evaluation at the end reads val again


def test_folds_are_read_once(data: Path, reads: Counter[str]) -> None:
    setup = TrainingSetup.from_recipe(tiny_recipe(data, "data.folds={count: 3, held_out: 1}"))
    assert reads == {"a.json": 1}
    assert (len(setup.samples), len(setup.val)) == (4, 2)


def test_the_recipe_of_the_set_up_is_that_of_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setups: list[TrainingSetup] = []
    build = TrainingSetup.from_recipe

    def record_setup(*arguments: Any, **options: Any) -> TrainingSetup:
        setups.append(build(*arguments, **options))
        return setups[-1]

    monkeypatch.setattr(TrainingSetup, "from_recipe", record_setup)
    requested = tiny_recipe(data, *MEASURED, "data.folds={count: 3, held_out: 1}")
    run = finetune_recipe(requested, out=tmp_path / "run", console=quiet())
    assert run is not None
    (setup,) = setups
    assert run.recipe is setup.recipe
    assert load_recipe(tmp_path / "run/recipe.yaml") == setup.recipe
    assert setup.recipe.data.folds is not None
    assert setup.recipe.data.folds.digest is not None
    constants = setup.recipe.data.normalize
    assert isinstance(constants, NormalizeRecipe)
    assert setup.model.mean.tolist() == pytest.approx(constants.mean)
    assert set(setup.recipe.heads["scene"].options["class_weights"]) == {"background", "bright"}
    # On resume nothing is left to resolve.
    finetune_recipe(run.recipe, resume=tmp_path / "run", console=quiet())
    assert setups[1].recipe == setup.recipe
    with pytest.raises(RunError, match="the recipe differs from that of the run"):
        finetune_recipe(tiny_recipe(data), resume=tmp_path / "run", console=quiet())


def test_a_resumed_run_gives_its_new_weights(data: Path, tmp_path: Path) -> None:
    """Also to who has used the model of the interrupted run before."""
    recipe = tiny_recipe(data, "training.epochs=2", "training.checkpoint_minutes=0.000001")
    with killed_at(4):
        finetune_recipe(recipe, out=tmp_path / "run", console=quiet())
    interrupted = Run.read(tmp_path / "run")
    before = interrupted.load_model().state_dict()
    resumed = finetune_recipe(interrupted.recipe, resume=interrupted, console=quiet())
    assert resumed is not None
    weights = resumed.load_model().state_dict()
    written = Run.read(tmp_path / "run").load_model().state_dict()
    assert all(torch.equal(weights[name], value) for name, value in written.items())
    assert not all(torch.equal(before[name], value) for name, value in written.items())


def test_resume_parses_the_recipe_once_for_training_and_evaluation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    finetune_recipe(tiny_recipe(data), out=run, console=quiet())
    shutil.rmtree(run / "evaluations")
    parsed: list[str] = []
    parse_yaml = recipe_loading.parse_yaml

    def record_and_parse(text: str, source: str) -> Any:
        parsed.append(source)
        return parse_yaml(text, source)

    monkeypatch.setattr(recipe_loading, "parse_yaml", record_and_parse)
    # Trackers and the report describe the folder of the run, whoever wrote it.
    monkeypatch.setattr(run_log, "TrackedRun", SimpleNamespace(from_folder=lambda *_: None))
    monkeypatch.setattr(run_log, "Trackers", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(train_commands, "write_run_report", lambda *_: None)
    result = CliRunner().invoke(app, ["finetune", "--resume", str(run)])
    assert result.exit_code == 0, result.output
    assert parsed == [str(run / "recipe.yaml")]
    assert (run / "evaluations/val/metrics.json").is_file()


def test_a_trial_measures_nothing_and_says_so(data: Path) -> None:
    recipe, console = tiny_recipe(data, *MEASURED), quiet()
    setup = TrainingSetup.from_recipe(recipe, purpose="trial", console=console)
    assert setup.recipe == recipe
    for setting in ("class_weights", "normalize"):
        assert f"{setting}: measured when training starts, not with --dry-run" in heard(console)
    console = quiet()
    TrainingSetup.from_recipe(recipe, console=console)
    assert "measured when training starts" not in heard(console)
    assert "normalize: mean" in heard(console)


def test_without_data_samples_are_generated(data: Path) -> None:
    recipe = tiny_recipe(data, "data.resize={height: 64, width: 96}")
    setup = TrainingSetup.from_recipe(recipe, purpose="synthetic")
    assert isinstance(setup.samples, SyntheticSamples)
    sample = setup.samples[0]
    assert sample.image.shape == (3, 64, 96)
    assert sample.target.semantic is not None
    assert setup.describe().endswith("placeholder categories, because its data is absent")


def test_problems_of_all_parts_come_at_once_with_data_too(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        data,
        "backbone.name=resnet81",
        "heads.scene.options.los=x",
        "augment=[{Flp: {p: 0.5}}]",
    )
    with pytest.raises(RecipeError) as checked:
        check_recipe(recipe)
    lines = str(checked.value).splitlines()
    assert len(lines) == 3
    for line, wrong in zip(lines, ("resnet81", "los is not an option", "Flp"), strict=True):
        assert wrong in line
    with pytest.raises(RecipeError) as trained:
        finetune_recipe(recipe, out=tmp_path / "run", console=quiet())
    assert str(trained.value) == str(checked.value)
    shutil.rmtree(data)
    with pytest.raises(RecipeError) as without_data:
        check_recipe(recipe)
    assert str(without_data.value) == str(checked.value)


def test_a_check_reports_invalid_data(data: Path) -> None:
    recipe = tiny_recipe(data)
    assert check_recipe(recipe).endswith("1 category of its data")
    (data / "u.png").unlink()
    with pytest.raises(DataError, match=r"b\.json: 1 of 3 listed files are missing"):
        check_recipe(recipe)
    (data / "b.json").write_text("{")
    with pytest.raises(DataError, match=r"b\.json"):
        check_recipe(recipe)
    (data / "b.json").unlink()
    assert check_recipe(recipe).endswith("because its data is absent")


def test_unsupported_options_are_refused_before_data_is_read(
    data: Path, reads: Counter[str]
) -> None:
    with pytest.raises(RecipeError, match=r"training\.balancing: unknown balancing 'nothing'"):
        finetune_recipe(tiny_recipe(data, "training.balancing=nothing"), console=quiet())
    assert not reads


def test_a_run_from_random_weights_is_extended_in_a_dry_run(data: Path, tmp_path: Path) -> None:
    """The backbone of the run is frozen, though its own recipe names no weights."""
    run = finetune_recipe(tiny_recipe(data), out=tmp_path / "first", console=quiet())
    assert isinstance(run, Run)
    recipe = load_recipe(data.parent / "tiny.yaml").model_dump(mode="json")
    del recipe["backbone"]
    recipe["heads"] = {"more": recipe["heads"]["scene"]}
    recipe["extend"] = {"run": str(run.directory)}
    extending = Recipe.model_validate_json(json.dumps(recipe))
    console = quiet()
    finetune_recipe(extending, dry_run=True, console=console)
    assert "nothing was written (--dry-run)" in heard(console)
    assert "with more (unet), scene (unet)" in check_recipe(extending)
