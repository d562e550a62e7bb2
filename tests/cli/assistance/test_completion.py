"""Completion as a shell requests it: one process per Tab, which prints completions only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resnet_tasks.assemble.heads import BUILT_IN_HEADS
from resnet_tasks.backbone.catalog import list_variants
from resnet_tasks.cli import app
from resnet_tasks.cli.assistance.completion import HEAD_TYPES
from resnet_tasks.heads.base import HEADS
from resnet_tasks.recipe.shipped_recipes import find_recipe, list_recipes

TAB = """
import sys
from resnet_tasks.__main__ import main
sys.argv = ["resnet-tasks"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "timm", "torchvision", "albumentations"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with runs, an export, a replay and files of the user."""
    folder = tmp_path_factory.mktemp("completed")
    recipe = find_recipe("quickstart").read_text(encoding="utf-8")
    for name in ("runs/a", "runs/group/fold-0", "runs/with space", "runs/.hidden", "own"):
        (folder / name).mkdir(parents=True)
        (folder / name / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "runs" / "unfinished").mkdir()
    for file in (
        "exports/onnx/export.json",
        "replays/update-3/step.json",
        "evaluations/val/x",
        "checkpoints/best-cells/x",
    ):
        (folder / "runs" / "a" / file).parent.mkdir(parents=True)
        (folder / "runs" / "a" / file).write_text("{}", encoding="utf-8")
    (folder / "mine.yaml").write_text(recipe, encoding="utf-8")
    (folder / "broken.yaml").write_text("heads: [", encoding="utf-8")
    return folder


def build_environment(line: str, shell: str) -> dict[str, str]:
    """What a shell sets for a line with the cursor at its end; bash splits words at `=`."""
    words = re.findall(r'=|""|[^\s=]+', f"resnet-tasks {line}")
    words += [""] if line.endswith(" ") else []
    return {
        "_RESNET_TASKS_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": f"resnet-tasks {line}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }


def complete(line: str, shell: str = "bash") -> list[str]:
    environment = build_environment(line, shell)
    result = CliRunner().invoke(app, env=environment, prog_name="resnet-tasks")
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.rstrip("\n").split("\n") if result.stdout.strip() else []


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


RUNS = ["runs/a", "runs/group/fold-0"]


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("fine", ["finetune"]),
        ("finetune q", ["quickstart"]),
        ("finetune medical/bccd", ["medical/bccd_faster_rcnn_resnet18"]),
        ("finetune bccd", ["bccd_faster_rcnn_resnet18"]),
        ("finetune mi", ["mine.yaml"]),
        ("recipes show kitti", ["kitti_faster_rcnn_resnet50"]),
        # Keys: bash passes `KEY`, `=`, `VALUE` as three words and replaces only the last one.
        (
            "finetune quickstart training.le",
            ["training.learning_rate=", "training.learning_rate=0.002"],
        ),
        ("finetune quickstart training.optimizer=", ["adamw", "sgd"]),
        ("finetune quickstart training.optimizer=s", ["sgd"]),
        (
            "finetune quickstart training.epochs=5 training.opt",
            ["training.optimizer=adamw", "training.optimizer=sgd"],
        ),
        (
            "finetune quickstart --out=runs/x training.opt",
            ["training.optimizer=adamw", "training.optimizer=sgd"],
        ),
        ("finetune mine.yaml heads.", ["heads.objects.", "heads.scene."]),
        ("finetune quickstart heads.scene.type=un", ["unet", "unetplusplus"]),
        ("finetune quickstart backbone.name=resnet18", ["resnet18", "resnet18d"]),
        ("finetune quickstart backbone.weights=r", RUNS),
        (
            "lr-find quickstart training.prec",
            [f"training.precision={p}" for p in ("auto", "fp32", "bf16", "fp16")],
        ),
        ("benchmark quickstart data.cache=", ["true", "false", "auto"]),
        ("recipes validate quickstart training.seed=", ["0"]),
        ("finetune no-such-recipe training.epo", ["training.epochs=", "training.epochs=30"]),
        ("finetune broken.yaml training.epo", ["training.epochs=", "training.epochs=30"]),
        ("data stats x.json ", ["data.channels=", "data.intensity."]),
        (
            "data stats x.json data.intensity.t",
            [f"data.intensity.type={t}" for t in ("auto", "window", "percentile")],
        ),
        ("data stats x.json training.", []),
        # Formats and datasets.
        ("data convert v", ["voc"]),
        ("data convert yolo a b d", ["data_yaml="]),
        ("data convert nonsense a b d", []),
        ("data export ", ["voc", "yolo"]),
        ("data export yolo a b s", ["shapes="]),
        ("data prepare b", ["bccd", "bdd100k", "broken.yaml"]),
        ("data prepare cells si", ["size="]),
        ("export runs/a --format ", ["onnx", "openvino"]),
        # Runs and their parts.
        ("evaluate ", ["own", *RUNS]),
        ("evaluate runs/g", ["runs/group/fold-0"]),
        ("evaluate runs/group/", ["runs/group/fold-0"]),
        ("evaluate runs/a --paired runs/g", ["runs/group/fold-0"]),
        ("evaluate runs/a --checkpoint ", ["last", "best", "best-cells"]),
        ("evaluate own --checkpoint ", ["last", "best"]),
        ("finetune --resume runs/", RUNS),
        ("compare runs/a runs/g", ["runs/group/fold-0"]),
        ("predict runs/a", ["runs/a", "runs/a/exports/onnx"]),
        ("predict runs/a pho", []),
        ("replay ru", ["runs/a/replays/update-3"]),
        ("report runs/a --evaluation ", ["val"]),
        ("report runs/none --evaluation ", []),
        ("explain runs/a x.jpg --head ", ["objects", "scene"]),
        ("backbones resnet18", ["resnet18", "resnet18d"]),
        ("heads f", ["faster_rcnn", "fcos", "fpn"]),
        ("recipes keys training.opt", ["training.optimizer"]),
        ("recipes keys heads.NAME.lo", ["heads.NAME.loss_weight"]),
        ("recipes keys data.res", ["data.resize.", "data.resize"]),
        (
            "recipes show quickstart training.le",
            ["training.learning_rate=", "training.learning_rate=0.002"],
        ),
        ("finetune quickstart --nonsense training.dev", []),
        ("finetune quickstart zzz.", []),
    ],
)
def test_bash(line: str, completions: list[str]) -> None:
    assert complete(line) == completions


def test_all_recipes_and_backbones() -> None:
    listed = complete("finetune ")
    assert listed == [*(recipe.name for recipe in list_recipes()), "broken.yaml", "mine.yaml"]
    assert complete("backbones ") == [variant.name for variant in list_variants()]


def test_head_types_are_those_of_the_package() -> None:
    assert BUILT_IN_HEADS
    built_in = {name for name in HEADS if HEADS.get(name).__module__.startswith("resnet_tasks.")}
    assert set(HEAD_TYPES) == built_in


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_whole_words_and_descriptions(shell: str) -> None:
    values = "\n".join(complete("finetune quickstart training.optimizer=", shell))
    assert "training.optimizer=adamw" in values
    assert "training.optimizer=sgd" in values
    keys = "\n".join(complete("finetune quickstart training.warm", shell))
    assert "Fraction of the run" in keys


def test_an_empty_argument_is_not_an_error() -> None:
    assert complete('finetune "" training.warm') == [
        "training.warmup=",
        "training.warmup=0.05",
    ]


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("finetune q", "quickstart"),
        ("finetune quickstart training.optimizer=", "adamw"),
        ("finetune quickstart heads.scene.type=", "classifier"),
        ("data convert voc a b o", "one_based="),
        ("evaluate runs/", "runs/a"),
        ("backbones resnet1", "resnet10t"),
    ],
)
def test_a_process_prints_completions_only_and_loads_nothing_heavy(line: str, first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAB],
        env=os.environ | build_environment(line, "bash"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[0] == first


def test_the_script_for_the_shell_calls_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resnet_tasks", "--show-completion", "bash"],
        # By default the shell is detected from the parent processes, which tests may not have.
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "complete -o default -F _resnet_tasks_completion resnet-tasks" in done.stdout
