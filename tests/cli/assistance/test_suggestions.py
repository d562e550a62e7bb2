"""Unknown commands and options: one line that ends with what to write instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resnet_tasks.cli import app


def mistake(*words: str) -> str:
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.rstrip("\n")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "a b"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("x: 1", encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("x: 1", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (("train",), "'finetune'"),
        (("Train",), "'finetune'"),
        (("fit",), "'finetune'"),
        (("fine-tune",), "'finetune'"),
        (("val",), "'evaluate'"),
        (("test",), "'evaluate'"),
        (("eval",), "'evaluate'"),
        (("infer",), "'predict'"),
        (("detect", "train"), "'predict'"),
        (("validate",), "'evaluate' or 'recipes validate'"),
        (("help",), "'--help'"),
        (("help", "finetune"), "'finetune --help'"),
        (("help", "nothing"), "'--help'"),
        (("version",), "'--version'"),
        (("finetun",), "'finetune'"),
        (("convert", "yolo"), "'data convert'"),
        (("copy",), "'recipes copy'"),
        (("quickstart",), "'finetune quickstart'"),
        (("bccd_faster_rcnn_resnet18",), "'finetune bccd_faster_rcnn_resnet18'"),
        (("mine.yaml",), "'finetune mine.yaml'"),
        (("runs/a b",), "\"evaluate 'runs/a b'\" or \"predict 'runs/a b'\""),
        (("data", "visualize"), "'data preview'"),
        (("data", "yolo", "a b", "c"), "\"data convert yolo 'a b' c\""),
        (("data", "chekc"), "'check'"),
        (("recipes", "ls"), "'recipes list'"),
        (("recipes", "help"), "'recipes --help'"),
        (("data", "usage"), "'data --help'"),
    ],
)
def test_unknown_commands(words: tuple[str, ...], suggestion: str) -> None:
    assert mistake(*words).endswith(f"; did you mean {suggestion}?")


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (("xyzzy",), "error: unknown command 'xyzzy'; commands: finetune, "),
        (("data", "xyzzy"), "error: data has no command 'xyzzy'; commands: prepare, convert, "),
        (("[b]x",), "error: unknown command '[b]x'; commands: "),
    ],
)
def test_commands_are_listed(words: tuple[str, ...], start: str) -> None:
    told = mistake(*words)
    assert told.startswith(start)
    assert "did you mean" not in told


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (
            ("finetune", "quickstart", "--epochs", "5"),
            "--epochs; keys of a recipe are set without dashes; did you mean 'training.epochs=5'?",
        ),
        (("finetune", "quickstart", "--epochs=5"), "'training.epochs=5'?"),
        (("finetune", "--batch", "8", "quickstart"), "'training.batch_size=8'?"),
        (("finetune", "quickstart", "--batch-size", "8"), "'training.batch_size=8'?"),
        (("finetune", "quickstart", "--lr", "1e-3"), "'training.learning_rate=1e-3'?"),
        (("finetune", "quickstart", "--lr"), "'training.learning_rate=VALUE'?"),
        (("finetune", "quickstart", "--lr", "--dry-run"), "'training.learning_rate=VALUE'?"),
        (("finetune", "q", "--imgsz", "640"), "'data.resize={height: 640, width: 640}'?"),
        (("finetune", "q", "--training.epochs", "5"), "'training.epochs=5'?"),
        (("finetune", "q", "--seed", "3"), "'training.seed=3'?"),
        (("finetune", "q", "--sedds", "3"), "did you mean '--seeds'?"),
        (("finetune", "q", "--work-dir", "runs/x"), "did you mean '--out runs/x'?"),
        (("finetune", "q", "--data", "my/data"), "did you mean 'data.root=my/data'?"),
        (("finetune", "--config", "a b.yaml"), "did you mean \"finetune 'a b.yaml'\"?"),
        (("lr-find", "q", "--batch", "8"), "'training.batch_size=8'?"),
        (("recipes", "validate", "q", "--lr", "1"), "'training.learning_rate=1'?"),
        (("predict", "runs/a b", "--source", "x.jpg"), "did you mean 'predict RUN x.jpg'?"),
        (("predict", "--weights", "runs/a"), "did you mean 'predict runs/a'?"),
        (("predict", "r", "--conf", "0.5"), "did you mean '--score 0.5'?"),
        (("evaluate", "r", "--chekpoint", "best"), "did you mean '--checkpoint'?"),
        (
            ("data", "split", "a", "--fraction", "1"),
            "data split has no option --fraction; did you ",
        ),
        (("--epochs", "5"), "did you mean 'finetune RECIPE training.epochs=5'?"),
        (("-v",), "did you mean '--version'?"),
        (("--hlep",), "did you mean '--help'?"),
        (("evaluate", "r", "--batch-size", "3"), "--trust-plugins, --help"),
        (("finetune", "q", "--xyzzy", "3"), "--dry-run, --data-root, --trust-plugins, --help"),
    ],
)
def test_unknown_options(words: tuple[str, ...], end: str) -> None:
    told = mistake(*words)
    assert end in told
    assert told.endswith(end) or end.endswith("did you ")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("finetune", "quickstart", "--out"), "'--out' requires an argument"),
        (("evaluate", "r", "--split", "tset"), "'tset' is not one of 'train', 'val', 'test'"),
        (("predict",), "Missing argument 'RUN'"),
    ],
)
def test_other_usage_errors_are_reported_by_typer(words: tuple[str, ...], part: str) -> None:
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == 2
    assert part in result.stderr


def test_the_process_prints_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resnet_tasks", "train", "--epochs", "5"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("; did you mean 'finetune'?\n")
    assert done.stderr.count("\n") == 1
