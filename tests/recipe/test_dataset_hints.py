"""What is given in place of a recipe is answered with commands that work."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from data_tools.reading.archives import SUFFIXES
from resnet_tasks.cli import app
from resnet_tasks.cli.assistance.dataset_layouts import complete_message
from resnet_tasks.errors import NotRecipeError, RecipeError
from resnet_tasks.recipe.dataset_hints import _ARCHIVES, describe_file
from resnet_tasks.recipe.load import load_recipe


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RESNET_TASKS_DATA", raising=False)
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def message(ref: str | Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(ref)
    error = caught.value
    return complete_message(error) if isinstance(error, NotRecipeError) else str(error)


def commands(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("  resnet-tasks ")]
    return [shlex.split(line)[1:] for line in lines]


def run_commands(text: str) -> str:
    """Run the commands; instead of training, the recipe is validated on the data."""
    output = ""
    for words in commands(text):
        start = ["recipes", "validate"] if words[0] == "finetune" else words[:1]
        result = CliRunner().invoke(app, [*start, *words[1:]])
        assert result.exit_code == 0, f"{words}: {result.output}"
        output = result.output
    return output


def test_the_archives_are_those_of_the_conversion() -> None:
    assert set(_ARCHIVES) == set(SUFFIXES)


@pytest.mark.parametrize("name", ["mine", "my cells; rm -rf"])
def test_a_yolo_dataset(name: str, draw_cells: Callable[..., Path], folder: Path) -> None:
    source = draw_cells(train=2, val=2, size=(96, 96)) / "cells"
    exported = CliRunner().invoke(app, ["data", "export", "yolo", str(source), name])
    assert exported.exit_code == 0, exported.output
    file = Path(name, "data.yaml")

    told = message(file)

    assert told.startswith(f"{file} describes a YOLO dataset, not a recipe; to train on it, run:\n")
    assert told == message(Path(name))
    assert "3 categories of its data" in run_commands(told)
    assert (folder / "data").is_dir()
    # The converted data must not be overwritten by the next dataset of this name.
    taken = commands(told)[0][4]
    assert commands(message(file))[0][4] == f"{taken}-coco"


def test_numbered_classes_and_another_name_of_the_yaml(draw_cells: Callable[..., Path]) -> None:
    source = draw_cells(train=2, val=2, size=(96, 96)) / "cells"
    CliRunner().invoke(app, ["data", "export", "yolo", str(source), "mine"])
    Path("mine", "data.yaml").rename("mine/coco8.yaml")
    text = Path("mine", "coco8.yaml").read_text(encoding="utf-8").partition("names:")[0]
    text += "names: {0: a, 1: b, 2: c}\n"
    Path("mine", "coco8.yaml").write_text(text, encoding="utf-8")

    told = message("mine/coco8.yaml")

    assert "data_yaml=coco8.yaml" in told
    assert "3 categories of its data" in run_commands(told)


def test_a_yolo_dataset_without_val_is_split(draw_cells: Callable[..., Path]) -> None:
    source = draw_cells(train=6, val=2, size=(96, 96)) / "cells"
    CliRunner().invoke(app, ["data", "export", "yolo", str(source), "mine"])
    file = Path("mine", "data.yaml")
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("val:")]
    file.write_text("\n".join(kept), encoding="utf-8")

    told = message(file)

    assert "resnet-tasks data split data/mine/train.json --out data/mine-splits" in told
    assert "3 categories of its data" in run_commands(told)


def test_a_coco_dataset(draw_cells: Callable[..., Path], folder: Path) -> None:
    source = draw_cells(train=6, val=2, size=(96, 96)) / "cells"
    for ref in (source, source / "train.json", source / "val.json"):
        told = message(ref)
        assert told.startswith(f"{ref} is a COCO dataset, not a recipe; to train on it, run:\n")
        (words,) = commands(told)
        assert words[-1] == f"data.root={source}"
        assert "3 categories of its data" in run_commands(told)

    single = source / "all.json"
    (source / "train.json").rename(single)
    told = message(single)
    assert commands(told)[0][:2] == ["data", "split"]
    assert "3 categories of its data" in run_commands(told)


def test_a_coco_dataset_below_the_data_root_is_named_by_its_folder(folder: Path) -> None:
    (folder / "data" / "mine").mkdir(parents=True)
    for name in ("train", "val"):
        (folder / "data" / "mine" / f"{name}.json").write_text("{}", encoding="utf-8")
    assert commands(message("data/mine"))[0][-1] == "data.root=mine"


def test_a_large_json_is_not_parsed(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_text('{"info": {}, "images": [' + "x" * (1 << 20), encoding="utf-8")
    assert "is a COCO dataset" in str(describe_file(file))
    file.write_text('{"data": {"root": "x"}, "heads": {}}', encoding="utf-8")
    assert describe_file(file) is None


@pytest.mark.parametrize(
    ("name", "layout"),
    [("bccd", "a Pascal VOC"), ("coco_tiny", "a COCO"), ("dsb2018", "a dataset of instance masks")],
)
def test_real_datasets(name: str, layout: str, shared_data: Path) -> None:
    told = message(shared_data / name)
    assert told.startswith(f"{shared_data / name} is {layout}")
    if name == "bccd":
        assert "3 categories of its data" in run_commands(told)


def test_image_folders() -> None:
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            Path("pets", split, label).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(Path("pets", split, label, "0.png"))
    told = message("pets")
    assert "data convert image-folders pets data/pets" in told
    assert "2 categories of its data" in run_commands(told)


def test_run_folders(folder: Path) -> None:
    run = folder / "runs" / "a b"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("x: 1", encoding="utf-8")
    told = message("runs/a b")
    assert "`resnet-tasks finetune --resume 'runs/a b'`" in told
    assert told.endswith("`resnet-tasks finetune 'runs/a b/recipe.yaml'`")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("photo.jpg", "photo.jpg is an image, not a recipe; predict it with a trained run: "),
        ("a.pth", "holds weights, not a recipe; a recipe loads them: resnet-tasks finetune RECIPE"),
        ("d.tar.gz", "data convert FORMAT d.tar.gz data/d\n"),
        ("d.zip", "\nFormats: resnet-tasks data convert\n"),
        ("annotations.csv", "a recipe consists of the keys"),
    ],
)
def test_other_files(name: str, part: str) -> None:
    Path(name).write_text("abc", encoding="utf-8")
    assert part in message(name)


def test_other_folders() -> None:
    Path("empty").mkdir()
    assert message("empty").startswith("empty is an empty folder, not a recipe")
    Path("other", "deep").mkdir(parents=True)
    told = message("other")
    assert told.startswith("other is a folder, not a recipe; if it is a dataset, run:\n")
    assert "data convert FORMAT other data/other\n" in told


def test_a_dataset_of_data_prepare() -> None:
    text = "title: Lanes\nformat: color-maps\n"
    Path("lanes.yaml").write_text(text, encoding="utf-8")
    assert "  resnet-tasks data prepare lanes.yaml --source DIR\n" in message("lanes.yaml")


@pytest.mark.parametrize("text", ["names: [a\n", "names: 3\n", "- 1", "names: {}\nheads: {}\n", ""])
def test_other_yaml_files_are_read_as_recipes(text: str) -> None:
    Path("some.yaml").write_text(text, encoding="utf-8")
    assert "YOLO" not in message("some.yaml")
    Path("with").mkdir()
    Path("with", "data.yaml").write_text(text, encoding="utf-8")
    assert message("with").startswith("with is a folder, not a recipe")


def test_a_json_recipe_is_still_a_recipe() -> None:
    source = [{"annotations": "a.json"}]
    recipe = {
        "data": {"root": "x", "train": source, "val": source},
        "heads": {"cells": {"type": "unet"}},
    }
    Path("mine.json").write_text(json.dumps(recipe), encoding="utf-8")
    assert load_recipe("mine.json").name == "mine"


@pytest.mark.parametrize(
    ("name", "is_complete"),
    [
        ('"a.png"', True),
        ('"b.png"', False),
        ('"a.\\u0000png"', False),
        (f'"{"a" * 5000}"', False),
        ('"\udcff"', False),
    ],
)
def test_a_coco_file_whose_images_are_elsewhere(name: str, is_complete: bool) -> None:
    """Such a file has to be converted, which only the command line can describe."""
    Path("a.png").touch()
    content = f'{{"images": [{{"file_name": {name}}}]}}'
    Path("result.json").write_bytes(content.encode(errors="surrogateescape"))
    error = describe_file(Path("result.json"))
    assert error is not None
    assert error.source == (None if is_complete else Path("result.json"))
