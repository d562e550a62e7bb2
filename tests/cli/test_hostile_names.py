"""Commands print foreign names without markup and control characters."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import resnet_tasks
from resnet_tasks.cli import app
from tests.support.half_bright import write_recipe, write_split

CLASSES = ("granular [/b]", "[red]cell", "[link=x]z\u200bq\u202e:cat:")
NAMES = (
    "[/b] x",
    "\x1b[31mred\x9b2J",
    "a\nb\u2028c",
    "\u202egnp.exe",
    "../../evil",
    "/etc/passwd",
    "<script>alert(1)</script> **bold** [l](http://x)",
    "-rf",
    "--out",
    "x" * 250,
    "...",
    "   ",
    "a\0b",
    "\ud800",
    "con",
    "=cmd|' /C'!A0",
)
FOLDER = "data\x1b[31m [red]\x9b2J\u202e"
ROOT = Path(resnet_tasks.__file__).parents[1]
PRINTERS = {
    "resnet_tasks/cli/assistance/output.py",
    "resnet_tasks/runtime/console.py",
    "resnet_tasks/testing/head_contract.py",  # names of its own checks
}
MAY_PRINT = re.compile(r"\brich\b|\btyper\.|\bclick\b|print\(|input\(|std(out|err)\.write|showwarn")


def require_plain(output: str) -> None:
    """Check that a terminal shows every character of an output as it is."""
    assert not [letter for letter in output if not letter.isprintable() and letter != "\n"]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    require_plain(result.output)
    return result.output


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / FOLDER
    images = {f"im\x1b[2J[b]{i}": [(1 + i % 3, 0.5, 0.0, 1.0, 1.0)] for i in range(12)}
    write_split(folder / "a.json", images, categories=CLASSES)
    return folder


@pytest.mark.slow
def test_names_in_the_data_commands(dataset: Path, tmp_path: Path) -> None:
    annotations = dataset / "a.json"
    assert "granular [/b]" in run("data", "check", annotations)
    assert "granular [/b]" in run("data", "stats", annotations)
    output = run("data", "split", annotations, "--out", tmp_path / "[/b]\x1b[1m")
    assert "[red]cell" in output
    run("data", "preview", annotations, "--out", tmp_path / "[/b]\x1b[1m.png")
    converted = tmp_path / "converted"
    output = run("data", "convert", "coco", dataset, converted)
    assert "[red]cell" in output
    (exported,) = converted.glob("*.json")
    run("data", "export", "voc", exported, tmp_path / "voc", code=2)  # bidi in XML
    # Names in errors.
    content = json.loads(annotations.read_text())
    content["annotations"][0]["category_id"] = "[/b]\x1b[31m"
    annotations.write_text(json.dumps(content))
    run("data", "check", annotations, code=2)
    run("data", "check", dataset / "[/b]\x1b[31m.json", code=2)
    run("data", "convert", "[/b]\x1b[31m", dataset, tmp_path / "none", code=2)
    run("data", "check", annotations, "[/b]\x1b[31m", "--\x1b[31m", code=2)
    run("recipes", "show", "[/b]\x1b[31m", "\x1b[31mb", code=2)
    run("[/b]\x1b[31m", code=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["class", "file"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_hostile_names_end_in_no_traceback(name: str, kind: str, tmp_path: Path) -> None:
    """Commands succeed or end with one sentence, and write only below their outputs."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    write_split(folder / "a.json", {"im": [(1, 0.5, 0.0, 1.0, 1.0)], "no": []})
    content = json.loads((folder / "a.json").read_text())
    content["info"] = {"description": name, "contributor": name}
    if kind == "class":
        content["categories"][0].update(name=name, supercategory=name)
    else:
        content["images"][0]["file_name"] = f"{name}.png"
        with suppress(OSError, ValueError):
            (folder / "im.png").rename(folder / f"{name}.png")
    annotations = folder / "a.json"
    annotations.write_text(json.dumps(content))
    out = tmp_path / "out"
    present = set(tmp_path.rglob("*"))
    for arguments in (
        ("check", annotations, "--read-images"),
        ("check", annotations, "--fix", out / "fixed.json"),
        ("stats", annotations),
        ("split", annotations, "--out", out / "split"),
        ("convert", "coco", folder, out / "coco"),
        ("export", "voc", annotations, out / "voc"),
        ("export", "yolo", annotations, out / "yolo"),
    ):
        result = CliRunner().invoke(app, ["data", *map(str, arguments)])
        assert result.exit_code in (0, 1, 2), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), arguments
        require_plain(result.output)
    written = set(tmp_path.rglob("*")) - present
    assert all(path == out or out in path.parents for path in written), written


@pytest.mark.slow
def test_names_in_the_commands_of_a_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # lr-find writes to the current folder
    recipe = write_recipe(
        tmp_path / "mine.yaml",
        dataset,
        name="[/b] run\u202e",
        training={"epochs": 1, "batch_size": 4},
        evaluation={"resamples": 20},
    )
    folder = tmp_path / "runs\x1b[31m" / "[/b]\u202e"
    run("recipes", "validate", recipe)
    run("finetune", recipe, "--dry-run")
    assert "[red]cell" in run("finetune", recipe, "--out", folder)
    assert "[link=x]z\\u200bq" in run("evaluate", folder)
    run("calibrate", folder)
    run("operating-point", folder, code=2)
    run("predict", folder, dataset, "--out", tmp_path / "[b]\x1b[2J")
    run("explain", folder, next(dataset.glob("*.png")), "--class", CLASSES[2])
    run("explain", folder, next(dataset.glob("*.png")), "--class", "[/b]\x1b[31m", code=2)
    run("report", folder)
    run("compare", folder, folder, "--out", tmp_path / "[b]\x1b[2J.html")
    run("benchmark", recipe)
    run("lr-find", recipe)
    run("export", folder, "--out", tmp_path / "[b]\x1b[2Jexport")
    run("replay", folder, code=2)
    run("pull", "lab/[/b]\x1b[31m", "--out", tmp_path / "[b]\x1b", code=2)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("-rf", "..", "x" * 250, "[b]", "\x1b[31m", "a\nb", "\u202egnp", "<b>&", "   "):
        shutil.copy(next(dataset.glob("*.png")), inputs / f"{name}.png")
    present = set(tmp_path.rglob("*"))
    run("predict", folder, inputs, "--out", tmp_path / "predicted")
    written = set(tmp_path.rglob("*")) - present
    assert all(tmp_path / "predicted" in (path, *path.parents) for path in written), written
    card = run("push", folder, "lab/x", "--dry-run")
    assert "cell" in card
    (folder / "classes.json").write_text('{"\\u001b[31m')
    run("evaluate", folder, code=2)


def test_warnings_and_tracebacks_escape_control_characters(tmp_path: Path) -> None:
    program = (
        "import sys, warnings\n"
        "from resnet_tasks import __main__ as program\n"
        "def app(**options):\n"
        "    warnings.warn('file \\x1b[31m.png')\n"
        "    raise ValueError('class \\x9b2J[/b]')\n"
        "program.app = app\n"
        "program.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    )
    assert ended.returncode == 1
    require_plain(ended.stderr)
    assert "UserWarning: file \\x1b[31m.png" in ended.stderr
    assert "ValueError: class \\x9b2J[/b]" in ended.stderr


def find_printing(source: str) -> Iterator[str]:
    """Find output that is not escaped: with rich's own classes, typer, print or streams."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in ("rich.console.Console", "rich.text.Text", "rich.print") or (
                    name.startswith(("rich.markup.", "rich.prompt.", "click."))
                    or (node.module == "rich" and alias.name in ("console", "text", "markup"))
                ):
                    yield name
        elif isinstance(node, ast.Import):
            yield from (
                alias.name
                for alias in node.names
                if alias.name.startswith(("rich.console", "rich.text", "rich.markup", "click"))
            )
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "input", "warnings.showwarning") or name.startswith(
                ("typer.echo", "typer.secho", "typer.style", "typer.confirm", "typer.prompt")
            ):
                yield name
            if name in ("sys.stdout.write", "sys.stderr.write"):
                yield name


def test_only_the_escaping_console_and_echo_print() -> None:
    printing = {
        str(path.relative_to(ROOT)): found
        for package in ("resnet_tasks", "data_tools")
        for path in (ROOT / package).rglob("*.py")
        if (source := path.read_text(encoding="utf-8"))
        and MAY_PRINT.search(source)  # parsing all modules takes a second
        and (found := list(find_printing(source)))
    }
    assert set(printing) == PRINTERS, printing


@pytest.mark.parametrize(
    "source",
    [
        "from rich.console import Console",
        "from rich import console",
        "import rich.console",
        "from rich.text import Text",
        "from rich.markup import escape",
        "from rich import print",
        "typer.echo(name)",
        "typer.secho(name)",
        "typer.confirm(name)",
        "import click",
        "from click import echo",
        "print(name)",
        "sys.stderr.write(name)",
    ],
)
def test_the_search_finds_output_that_is_not_escaped(source: str) -> None:
    assert list(find_printing(source))
    assert not list(find_printing("from resnet_tasks.runtime.console import Console, Text"))
