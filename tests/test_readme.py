"""The README, the tour and the Python page are true: their commands and their Python run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from data_tools.converters.synthetic import make_cells
from resnet_tasks.cli import app
from resnet_tasks.heads.base import HEADS
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.runs.run import load
from resnet_tasks.testing.head_contract import check_head
from tests.support.json_files import require_json
from tests.support.markdown import find_code_blocks
from tests.support.paths import ROOT

LONGEST = 180
"""Lines of the README, so that a reader reaches its end."""
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
PYTHON_PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
RECIPES_PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
BASH = find_code_blocks(README, "bash")
TOUR_BASH = find_code_blocks(TOUR, "bash")
LIGHT_BACKBONE = ("training.epochs=1", "backbone.name=resnet10t")
LIGHT = (
    *LIGHT_BACKBONE,
    "heads.objects.options.pyramid_channels=16",
    "heads.objects.options.box_head_channels=32",
)
LIGHT_BCCD = (
    *LIGHT_BACKBONE,
    "backbone.weights=none",
    "backbone.frozen_stages=0",
    "heads.cells.options.pyramid_channels=16",
    "heads.cells.options.box_head_channels=32",
)
"""Overrides of the BCCD recipe: no download, and a second per epoch."""


def select_python_block(page: str, marker: str) -> str:
    (block,) = [block for block in find_code_blocks(page, "python") if marker in block]
    return block


def list_commands(block: str) -> list[list[str]]:
    """Words of every command after `resnet-tasks`, without comments."""
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert all(words[0] == "resnet-tasks" for words in commands)
    return [words[1:] for words in commands]


def execute(block: str) -> dict[str, Any]:
    """Names that a block of Python binds if it is the main script."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, "<page>", "exec"), names)
    return names


def call(words: list[str]) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{words}: {result.output}{result.exception}"
    return result.output


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with small cells and the run of the README's first command.

    After all tests, every JSON file that a command wrote into it is valid.
    """
    folder = tmp_path_factory.mktemp("readme")
    make_cells(folder / "data" / "cells", train=8, val=4, seed=1)
    install, command = BASH[0].strip().split(" && ")
    assert install == "pip install -e ."
    words = command.split()
    assert words[0] == "resnet-tasks"
    process = run_in(folder, [sys.executable, "-m", "resnet_tasks", *words[1:], *LIGHT])
    assert process.returncode == 0, process.stderr
    assert "objects/AP50" in process.stdout
    assert "scene/mIoU" in process.stdout
    assert "images" in process.stdout
    yield folder
    num_files = 0
    for suffix in (".json", ".jsonl"):
        for path in folder.rglob(f"*{suffix}"):
            require_json(path.read_text(encoding="utf-8"), is_lines=suffix == ".jsonl")
            num_files += 1
    assert num_files > 8


def run_in(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "120"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST


def test_second_command_runs_the_tests() -> None:
    assert BASH[1].strip() == 'pip install -e ".[test]" && pytest'


def test_own_data_from_the_readme(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands on the cells, exported to YOLO first."""
    monkeypatch.chdir(workplace)
    call(["data", "export", "yolo", "data/cells", "dataset"])
    images = sorted(Path("data/cells/images/val").iterdir())
    Path("folder").mkdir()
    shutil.copy(images[0], "photo.jpg")
    shutil.copy(images[1], "folder/other.jpg")
    commands = list_commands(BASH[2])
    assert [words[0] for words in commands] == ["data", "data", "recipes", "finetune", "predict"]
    for words in commands:
        call([*words, *LIGHT_BCCD] if words[0] == "finetune" else words)
    assert Path("runs/mine/report.html").is_file()
    assert len(list(Path("predictions/overlays").iterdir())) == 2
    shutil.rmtree("data/mine")  # the tour makes it again
    for path in ("mine.yaml", "dataset", "folder", "photo.jpg", "predictions"):
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def test_a_known_dataset_from_the_tour(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands on a dataset that must be downloaded are checked as far as their names go."""
    monkeypatch.chdir(workplace)
    commands = list_commands(TOUR_BASH[0])
    assert len(commands) == 6
    for words in commands:
        if words[0] == "finetune":
            load_recipe(words[1], words[2:])
        elif words[:2] == ["data", "prepare"]:
            call(["data", "prepare", "--help"])
        else:
            arguments = [word.replace("runs/NAME", "runs/quickstart") for word in words]
            if words[0] == "predict":
                arguments[2:4] = ["data/cells/images/val"]
            call(arguments)
    assert len(list(Path("predictions/overlays").iterdir())) == 4


def test_own_data_and_training_from_the_tour(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the commands on the cells, exported to YOLO first."""
    monkeypatch.chdir(workplace)
    call(["data", "export", "yolo", "data/cells", "dataset"])
    commands = list_commands(TOUR_BASH[1])
    assert len(commands) == 7
    for words in commands:
        call(words)
    assert len(list(Path("splits").glob("fold*.json"))) == 5
    assert Path("sheet.png").is_file()
    assert Path("statistics.png").is_file()
    assert len(list(Path("elsewhere", "Annotations").iterdir())) == 8

    commands = list_commands(TOUR_BASH[2])
    assert [words[0] for words in commands] == [
        *("recipes", "recipes", "finetune", "benchmark", "lr-find", "finetune"),
    ]
    few_steps = {"lr-find": ["--steps", "10"], "benchmark": ["--steps", "1", "--warm-up", "1"]}
    for words in commands:
        overrides = () if words[:2] == ["recipes", "copy"] else LIGHT_BCCD
        fewer = ["2" if word == "3" else word for word in words]  # seeds
        call([*fewer, *overrides, *few_steps.get(words[0], [])])
    assert Path("lr_find/lr_find.json").is_file()
    assert Path("runs/seeds/seeds.json").is_file()


def test_evaluation_from_the_tour(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands on the quickstart's run and a copy of it, with a class of its data."""
    monkeypatch.chdir(workplace)
    for name in ("A", "B"):
        shutil.copytree("runs/quickstart", f"runs/{name}")
    commands = list_commands(TOUR_BASH[3])
    assert len(commands) == 8
    replacements = {
        "WBC": "granular",
        "photo.jpg": "data/cells/images/val",
        "images/": "data/cells/images/val",
    }
    for words in commands:
        arguments = [replacements.get(word, word) for word in words]
        if "operating-point" in words or "--operating-point" in words:
            # After one epoch there is no detection, and therefore no threshold.
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 2, result.output
            assert re.search("no threshold to choose|choose thresholds with", result.output)
        else:
            call(arguments)
    assert Path("comparison.html").is_file()
    assert Path("runs/A/calibration.json").is_file()
    assert list(Path("runs/A/explanations").glob("*-scene.png"))


def test_commands_of_the_recipes_page(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "recipes-page").mkdir()
    monkeypatch.chdir(workplace / "recipes-page")
    (block,) = find_code_blocks(RECIPES_PAGE, "bash")
    commands = list_commands(block)
    assert [words[1] for words in commands] == ["list", "show", "copy", "validate", "schema"]
    for words in commands:
        call(words)


def test_every_shipped_recipe_has_a_result_or_is_listed_as_unmeasured() -> None:
    results, unmeasured = RECIPES_PAGE.split("## Not yet measured")
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        is_unmeasured = "# Result:  not yet measured" in path.read_text(encoding="utf-8")
        folder = path.parent.name
        if folder == "quickstart":
            assert "| `quickstart` |" in results
        elif is_unmeasured:
            (row,) = [line for line in unmeasured.splitlines() if line.startswith(f"| `{folder}/`")]
            assert f"`{path.stem}`" in row, path
        else:
            assert f"| `{folder}/{path.stem}` |" in results, path
            assert f"| `{folder}/{path.stem}` |" in README, path


def test_results_of_any_tool(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    (words,) = list_commands(BASH[3])
    replacements = {
        "gt.json": "data/cells/val.json",
        "dt.json": "runs/quickstart/evaluations/val/predictions/objects.json",
    }
    assert "AP50" in call([replacements.get(word, word) for word in words])


def test_python_of_the_readme(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    names = execute(select_python_block(README, "resnet_tasks.load("))
    assert tuple(names["classes"].shape) == (192, 256)
    assert len(names["boxes"]) == len(names["scores"])


def test_predicting_from_the_python_page(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    names = execute(select_python_block(PYTHON_PAGE, "resnet_tasks.load("))
    assert tuple(names["classes"].shape) == (480, 640)
    assert names["prediction"]["objects"].to_numpy().boxes.shape == (len(names["boxes"]), 4)


def test_building_and_training_without_yaml(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    block = select_python_block(PYTHON_PAGE, "resnet_tasks.finetune(")
    names = execute(block.replace('"resnet18"', '"resnet10t"'))
    assert "granular" in names["metrics"]["scene/mIoU"].per_class


def test_evaluating_results(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    names = execute(select_python_block(README, "evaluate_results("))
    assert names["metrics"]["AR_100"].value is not None


def test_own_head(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the README's text: at most 40 lines, kept to the contract, trained from a recipe."""
    block = select_python_block(README, '@register_head("tiny_fcn")')
    assert len(block.strip().splitlines()) <= 40
    (workplace / "tiny_fcn.py").write_text(block)
    recipe = {
        "plugins": ["tiny_fcn.py"],
        "data": {
            "root": str(workplace / "data" / "cells"),
            "train": [{"annotations": "train.json"}],
            "val": [{"annotations": "val.json"}],
        },
        "backbone": {"name": "resnet10t", "weights": "none"},
        "heads": {"scene": {"type": "tiny_fcn", "background": True}},
        "training": {"epochs": 1},
    }
    (workplace / "own.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "resnet_tasks", "finetune", "own.yaml", "--out", "runs/own"]
    refused = run_in(workplace, command)
    assert refused.returncode == 2
    assert "--trust-plugins" in refused.stderr
    trusted = run_in(workplace, [*command, "--trust-plugins"])
    assert trusted.returncode == 0, trusted.stderr
    assert "scene/mIoU" in trusted.stdout

    monkeypatch.syspath_prepend(str(workplace))
    check = select_python_block(README, "check_head(tiny_fcn.TinyFCN)")
    checked = run_in(workplace, [sys.executable, "-c", check])
    assert checked.returncode == 0, checked.stderr
    run = load(workplace / "runs" / "own", trust_plugins=True)
    assert type(run.load_model().named_heads["scene"]).__name__ == "TinyFCN"
    check_head("tiny_fcn")
    assert "tiny_fcn" in HEADS
