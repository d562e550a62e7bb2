"""Trackers: what they are told, and that none of them can stop or slow a run."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from accelerate.state import PartialState
from rich.console import Console
from torch.utils.data import Dataset

from resnet_tasks.errors import RecipeError
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.load import load_recipe, recipe_to_yaml
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.checkpoint import load_checkpoint
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.logging import trackers
from resnet_tasks.training.logging.trackers import TrackedRun, Trackers, require_trackers
from tests.support.half_bright import write_recipe

# Stand-ins that note what accelerate's tracker classes call.
WANDB = """
import json, os
from pathlib import Path
CALLS = Path(os.environ["CALLS"])
def note(*values):
    with CALLS.open("a") as stream:
        stream.write(json.dumps(values) + "\\n")
class Config:
    def update(self, values, allow_val_change=False):
        note("config", values)
config = Config()
class Run:
    def __init__(self, id, step):
        self.id, self.step = id, step
    def log(self, values, step=None):
        if os.environ.get("BREAKS") == "log":
            raise ConnectionError("the network is gone")
        note("log", values, step)
    def finish(self):
        note("finish")
def init(**options):
    note("init", options)
    if os.environ.get("BREAKS") == "init":
        raise RuntimeError("api_key not configured\\nlong story")
    return Run(options["id"] or "fresh", int(os.environ.get("STEP", "0")))
"""
MLFLOW = """
import json, os
from pathlib import Path
from types import SimpleNamespace
CALLS = Path(os.environ["CALLS"])
def note(*values):
    with CALLS.open("a") as stream:
        stream.write(json.dumps(values) + "\\n")
def search_experiments(filter_string):
    return []
def create_experiment(name, **_):
    note("experiment", name)
    return "1"
def start_run(run_id=None, run_name=None, **_):
    note("start_run", run_id, run_name)
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "fresh"))
def log_params(values):
    note("params", {name: str(value) for name, value in values.items()})
def log_metrics(values, step=None):
    note("metrics", values, step)
def end_run():
    note("end_run")
validation = SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
utils = SimpleNamespace(validation=validation)
"""
RECIPE = """
data: {root: /home/me/cells, train: [{annotations: a.json}], val: [{annotations: a.json}]}
heads: {scene: {type: unet}}
training: {epochs: 3}
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """Stand-ins for both packages; gives what was called so far."""
    packages, file = tmp_path / "packages", tmp_path / "calls.jsonl"
    for name, text in (("wandb", WANDB), ("mlflow", MLFLOW)):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(text)
    file.touch()
    before = {name: sys.modules.pop(name, None) for name in ("wandb", "mlflow")}
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("CALLS", str(file))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    PartialState()
    yield lambda: [json.loads(line) for line in file.read_text().splitlines()]
    for name, module in before.items():
        sys.modules.pop(name, None)
        if isinstance(module, ModuleType):
            sys.modules[name] = module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder, as far as trackers look at it."""
    run = tmp_path / "mine-1"
    run.mkdir()
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (run / "recipe.yaml").write_text(recipe_to_yaml(load_recipe(tmp_path / "mine.yaml")))
    return run


def _tracked(folder: Path, *names: str, update: int = 0) -> tuple[Trackers, list[str]]:
    said: list[str] = []
    return Trackers(
        names, TrackedRun.from_folder(folder, TrainingRecipe(), update), said.append
    ), said


def test_wandb_is_told_name_recipe_and_curves(
    calls: Callable[[], list[Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    made, said = _tracked(folder, "wandb")
    made.plot({"train/scene/loss": 0.5, "val/scene/mIoU": None}, 10)
    made.close()
    init, config, *rest = calls()
    assert init[1] == {
        "project": "resnet-tasks",
        "name": "mine-1",
        "dir": str(folder),
        "id": None,
        "resume": "allow",
    }
    assert config[1]["training"]["epochs"] == 3
    assert config[1]["data"]["root"] == "cells"
    assert rest == [["log", {"train/scene/loss": 0.5}, 10], ["finish"]]
    assert said == []

    # Resumed: the same run there; points that were sent before the kill are not sent again.
    monkeypatch.setenv("STEP", "11")
    made, said = _tracked(folder, "wandb", update=5)
    made.plot({"train/scene/loss": 0.5}, 10)
    made.plot({"train/scene/loss": 0.4}, 20)
    made.close()
    init, _, *rest = calls()[4:]
    assert init[1]["id"] == "fresh"
    assert rest == [["log", {"train/scene/loss": 0.4}, 20], ["finish"]]


def test_mlflow_is_told_flat_settings_and_names_that_it_takes(
    calls: Callable[[], list[Any]], folder: Path
) -> None:
    for _ in range(2):
        made, said = _tracked(folder, "mlflow", "mlflow")
        made.plot({"val/boxes/hits@0.5": 0.25}, 7)
        made.close()
        assert said == []
    first, again = calls()[:5], calls()[5:]
    assert first[0] == ["experiment", "resnet-tasks"]
    assert first[1] == ["start_run", None, "mine-1"]
    assert first[2][1]["training.epochs"] == "3"
    assert first[3:] == [["metrics", {"val/boxes/hits_0.5": 0.25}, 7], ["end_run"]]
    assert again[1] == ["start_run", "fresh", "mine-1"]


@pytest.mark.parametrize(
    ("breaks", "reason"), [("init", "api_key not configured"), ("log", "the network is gone")]
)
def test_a_tracker_that_fails_is_told_once_and_stops_nothing(
    calls: Callable[[], list[Any]],
    tiny_model: Callable[[], TaskModel],
    shapes: Dataset[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaks: str,
    reason: str,
) -> None:
    monkeypatch.setenv("BREAKS", breaks)
    console = Console(file=io.StringIO(), width=200)
    options = TrainingRecipe(
        epochs=2,
        batch_size=2,
        precision="fp32",
        device="cpu",
        trackers=("tensorboard", "wandb", "mlflow"),
    )
    finetune(tiny_model(), shapes, None, options, out=tmp_path / "run", console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    warning = f"warning: wandb failed and is disabled for this run ({reason})"
    assert said.count(warning) == said.count("warning:") == 1
    assert load_checkpoint(tmp_path / "run/checkpoints/last")[2]["position"]["epoch"] == 2
    metrics = [each for each in calls() if each[0] == "metrics"]
    assert len(metrics) == 8, "losses and rate of four steps reach the other one"
    assert calls()[-1] == ["end_run"]


@pytest.mark.parametrize("when", ["start", "finish"])
def test_a_service_that_hangs_is_not_waited_for(
    calls: Callable[[], list[Any]], folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    never = threading.Event()
    monkeypatch.setattr(trackers, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(trackers.WandbService, when, lambda _: never.wait(20))
    made, said = _tracked(folder, "wandb")
    made.plot({"x": 1.0}, 1)
    made.close()
    never.set()
    assert len(said) == 1
    assert "wandb failed and is disabled" in said[0]


def test_one_that_is_not_installed_is_a_mistake_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_trackers(("tensorboard",))
    for name in ("wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match=r"training.trackers: wandb is not installed; run `pip"):
        require_trackers(("tensorboard", "wandb"))
    monkeypatch.undo()
    (tmp_path / "mlflow").mkdir()  # results that lie in the working directory
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(RecipeError, match="mlflow is not installed"):
        require_trackers(("mlflow",))


def test_the_name_of_a_run_reaches_trackers_without_control_characters(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[31m\u202eb"
    folder.mkdir()
    assert TrackedRun.from_folder(folder, TrainingRecipe(), 0).name == r"a\x1b[31m\u202eb"
    write_recipe(folder / "recipe.yaml", tmp_path, name="x\u202ey\x9b")
    name = TrackedRun.from_folder(folder, TrainingRecipe(), 0).name
    assert name == r"x\u202ey\x9b/a\x1b[31m\u202eb"
