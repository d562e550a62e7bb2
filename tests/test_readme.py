"""The README is true: its commands, its Python and its tree."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from data_tools.converters.synthetic import make_cells
from resnet_tasks.cli import app
from resnet_tasks.heads.base import HEADS
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.runs.run import load
from resnet_tasks.testing.head_contract import check_head
from tests.support.paths import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BASH = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
LIGHT = (
    "training.epochs=1",
    "backbone.name=resnet10t",
    "heads.objects.options.pyramid_channels=16",
    "heads.objects.options.box_head_channels=32",
)


def python_block(marker: str) -> str:
    found = [block for block in PYTHON if marker in block]
    assert len(found) == 1, f"one Python block of the README should hold {marker!r}"
    return found[0]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small cells and the run of the README's first command."""
    folder = tmp_path_factory.mktemp("readme")
    make_cells(folder / "data" / "cells", train=8, val=4, seed=1)
    first = BASH[0].strip().split(" && ")
    assert first[0] == "pip install -e ."
    words = first[1].split()
    assert words[0] == "resnet-tasks"
    command = [sys.executable, "-m", "resnet_tasks", *words[1:], *LIGHT, "--out", "runs/quickstart"]
    made = run_in(folder, command)
    assert made.returncode == 0, made.stderr
    assert "objects/AP50" in made.stdout
    assert "scene/mIoU" in made.stdout
    assert "images" in made.stdout
    return folder


def run_in(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "120"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_second_command_runs_the_tests() -> None:
    assert BASH[1].strip() == 'pip install -e ".[test]" && pytest'


def test_commands_of_the_tour(workplace: Path) -> None:
    """Those on a data set that must be downloaded are checked as far as their names go."""
    lines = [line.split("#")[0].strip() for line in BASH[2].splitlines()]
    assert len(lines) == 6
    for line in lines:
        words = line.split()[1:]
        if words[0] == "finetune":
            load_recipe(words[1], words[2:])
            continue
        if words[:2] == ["data", "prepare"]:
            words = ["data", "prepare", "--help"]
        if words[0] == "predict":
            words = ["predict", "runs/NAME", "data/cells/images/val", *words[4:]]
        words = [word.replace("runs/NAME", "runs/quickstart") for word in words]
        made = run_in(workplace, [sys.executable, "-m", "resnet_tasks", *words])
        assert made.returncode == 0, f"{line}: {made.stderr}"
    assert len(list((workplace / "predictions" / "overlays").iterdir())) == 4


def test_commands_on_data_of_ones_own(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the cells, brought to YOLO first."""
    monkeypatch.chdir(workplace)
    prepared = CliRunner().invoke(app, ["data", "export", "yolo", "data/cells", "dataset"])
    assert prepared.exit_code == 0, prepared.output
    lines = [line.split("#")[0].strip() for line in BASH[3].splitlines()]
    assert len(lines) == 7
    for line in lines:
        made = CliRunner().invoke(app, shlex.split(line)[1:])
        assert made.exit_code == 0, f"{line}: {made.output}{made.exception}"
    assert len(list(Path("splits").glob("fold*.json"))) == 5
    assert Path("sheet.png").is_file()
    assert Path("statistics.png").is_file()
    assert len(list(Path("elsewhere", "Annotations").iterdir())) == 8


def test_commands_on_how_good_it_is(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the quickstart's run and a copy of it, with a class that its data has."""
    monkeypatch.chdir(workplace)
    for name in ("A", "B"):
        shutil.copytree("runs/quickstart", f"runs/{name}")
    lines = [line.split("#")[0].strip() for line in BASH[4].splitlines()]
    assert len(lines) == 7
    for line in lines:
        words = shlex.split(line)[1:]
        words = ["granular" if word == "WBC" else word for word in words]
        images = {"photo.jpg": "data/cells/images/val", "images/": "data/cells/images/val"}
        words = [images.get(word, word) for word in words]
        made = CliRunner().invoke(app, words)
        if "operating-point" in line:  # one epoch finds nothing: there is none to choose
            assert made.exit_code == 2, made.output
            assert (
                "no threshold to choose" in made.output or "choose thresholds with" in made.output
            )
        else:
            assert made.exit_code == 0, f"{line}: {made.output}{made.exception}"
    assert (workplace / "comparison.html").is_file()
    assert (workplace / "runs/A/calibration.json").is_file()
    assert list((workplace / "runs/A/explanations").glob("*-scene.png"))


def test_results_of_any_tool(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    found = [line for block in BASH for line in block.splitlines() if "--results" in line]
    assert len(found) == 1
    results = "runs/quickstart/evaluations/val/predictions/objects.json"
    line = found[0].split("#")[0].replace("gt.json", "data/cells/val.json")
    made = CliRunner().invoke(app, shlex.split(line.replace("dt.json", results))[1:])
    assert made.exit_code == 0, made.output
    assert "AP50" in made.output


def test_building_and_training_without_yaml(workplace: Path) -> None:
    block = python_block("resnet_tasks.finetune(").replace('"resnet18"', '"resnet10t"')
    made = run_in(workplace, [sys.executable, "-c", block])
    assert made.returncode == 0, made.stderr
    assert "granular" in made.stdout


def test_loading_a_run(workplace: Path) -> None:
    made = run_in(workplace, [sys.executable, "-c", python_block("resnet_tasks.load(")])
    assert made.returncode == 0, made.stderr


def test_evaluating_results(workplace: Path) -> None:
    made = run_in(workplace, [sys.executable, "-c", python_block("evaluate_results(")])
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("AP ")


def test_head_of_ones_own(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the README's text: at most 40 lines, kept to the contract, trained from a recipe."""
    block = python_block('@register_head("tiny_fcn")')
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
    made = run_in(workplace, [*command, "--trust-plugins"])
    assert made.returncode == 0, made.stderr
    assert "scene/mIoU" in made.stdout

    monkeypatch.syspath_prepend(str(workplace))
    check = python_block("check_head(tiny_fcn.TinyFCN)")
    checked = run_in(workplace, [sys.executable, "-c", check])
    assert checked.returncode == 0, checked.stderr
    run = load(workplace / "runs" / "own", trust_plugins=True)
    assert type(run.load_model().named_heads["scene"]).__name__ == "TinyFCN"
    check_head("tiny_fcn")
    assert "tiny_fcn" in HEADS


def test_tree_matches_the_folder() -> None:
    """Every folder that holds tracked files has one line, with the summary of its package."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout, so that tracked files cannot be listed")
    block = TEXT.split("## The tree")[1].split("```")[1].strip("\n")
    described = folders_of_tree(block)
    folders = {str(parent) for path in tracked for parent in Path(path).parents} - {"."}
    folders = {path for path in folders if not path.startswith("tests/")}
    assert set(described) == folders
    for folder, summary in described.items():
        package = ROOT / folder / "__init__.py"
        if package.is_file():
            docstring = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
            assert summary == docstring.partition("\n")[0].removesuffix("."), folder


def folders_of_tree(block: str) -> dict[str, str]:
    """Folder -> summary of an indented tree with two spaces per level."""
    described: dict[str, str] = {}
    trail: list[str] = []
    for line in block.splitlines():
        name, _, summary = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        trail = [*trail[:depth], name.removesuffix("/")]
        described["/".join(trail)] = summary.strip()
    return described
