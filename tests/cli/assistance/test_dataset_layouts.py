"""The commands that answer a dataset in place of a recipe run as they are printed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.recipe.dataset_hints import RECIPE_BY_CONTENT
from resnet_tasks.recipe.shipped_recipes import find_recipe
from tests.support import source_layouts as sources


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESNET_TASKS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def answer(ref: str) -> str:
    answered = CliRunner().invoke(app, ["finetune", ref])
    assert answered.exit_code == 2
    return answered.output


def list_commands(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("  resnet-tasks ")]
    return [shlex.split(line)[1:] for line in lines]


def run(text: str, *, name: str = "cell") -> list[str]:
    """Run the commands and return their verbs; recipes are validated on the data."""
    for words in list_commands(text):
        start = ["recipes", "validate"] if words[0] == "finetune" else words[:1]
        arguments = [word.replace("NAME", name) for word in words[1:]]
        done = CliRunner().invoke(app, [*start, *arguments])
        assert done.exit_code == 0, f"{words}: {done.output}"
    return [" ".join(words[: 3 if words[0] == "data" else 1]) for words in list_commands(text)]


@pytest.mark.parametrize(
    ("build", "file", "commands"),
    [
        (sources.flat_voc, "", ["data convert voc", "data split", "finetune"]),
        pytest.param(
            sources.cvat_coco,
            "",
            ["data convert coco", "data split", "finetune"],
            marks=pytest.mark.slow,
        ),
        (
            sources.cvat_coco,
            "annotations/instances_default.json",
            ["data convert coco", "data split", "finetune"],
        ),
        pytest.param(
            sources.darknet,
            "obj.data",
            ["data convert yolo", "data split", "finetune"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            sources.labelme_folder,
            "",
            ["data convert labelme", "data split", "finetune"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            sources.cvat_xml,
            "annotations.xml",
            ["data convert cvat", "data split", "finetune"],
            marks=pytest.mark.slow,
        ),
        (sources.csv_table, "boxes.csv", ["data convert csv-boxes", "finetune"]),
        pytest.param(
            sources.roboflow_csv, "", ["data convert csv-boxes", "finetune"], marks=pytest.mark.slow
        ),
        pytest.param(sources.kitti, "", ["data convert kitti", "finetune"], marks=pytest.mark.slow),
        (sources.mask_folders, "", ["data convert binary-masks", "finetune"]),
        pytest.param(
            sources.named_volumes, "", ["data convert nifti", "finetune"], marks=pytest.mark.slow
        ),
        (sources.dicom, "", ["data convert dicom"]),
    ],
)
def test_the_commands_run(
    tmp_path: Path, build: Callable[[Path], None], file: str, commands: list[str]
) -> None:
    build(tmp_path / "my data")
    text = answer(str(Path("my data", file)))
    verbs = run(text)
    assert [verb.partition(" data/")[0] for verb in verbs] == commands


def test_titles() -> None:
    sources.named_volumes(Path("volumes"))
    sources.dicom(Path("series"))
    sources.csv_table(Path("table"))
    assert answer("volumes").startswith(
        "error: volumes is a dataset of NIfTI volumes, not a recipe; to train on it, replace NAME "
        "by the name of a class and run:\n"
    )
    assert answer("series").startswith(
        "error: series is a folder of DICOM files, not a recipe; it has no annotations to train "
        "on; to convert the images for a prediction, run:\n"
    )
    assert answer("table/boxes.csv").startswith(
        "error: table/boxes.csv is part of a dataset with a CSV table of boxes, not a recipe; "
    )


def test_a_file_that_is_not_the_annotations_of_the_folder() -> None:
    sources.csv_table(Path("table"))
    Path("table", "notes.txt").write_text("abc", encoding="utf-8")
    assert "notes.txt: a recipe consists of the keys" in answer("table/notes.txt")


def test_every_recipe_exists() -> None:
    assert all(find_recipe(recipe).is_file() for recipe in RECIPE_BY_CONTENT.values() if recipe)
