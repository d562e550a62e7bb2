"""Help on the options of formats."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_tools.catalog import load_datasets
from data_tools.exporters.formats import EXPORTS
from data_tools.formats import FORMATS
from resnet_tasks.cli import app


def run(*arguments: str, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["data", *arguments])


@pytest.mark.parametrize("name", list(FORMATS))
def test_help_on_a_format_explains_each_option(name: str) -> None:
    shown = run("convert", name, "--help")
    assert shown.exit_code == 0, shown.output
    options = shown.stdout.split("KEY=VALUE options:\n")[1]
    parameters = inspect.signature(FORMATS.get(name).convert).parameters
    rows = [line.split() for line in options.splitlines() if line[:2] == "  " and line[2] > " "]
    assert [row[0] for row in rows if "." not in row[0]] == list(FORMATS.get(name).options)
    text = " ".join(options.split())
    for option in FORMATS.get(name).options:
        if parameters[option].default is inspect.Parameter.empty:
            assert "; required]" in text
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize("formats", [FORMATS, EXPORTS], ids=["import", "export"])
def test_every_option_of_every_format_has_a_meaning(formats: object) -> None:
    for name in formats:  # type: ignore[attr-defined]
        described = formats.get(name).describe_options()  # type: ignore[attr-defined]
        assert described
        for option in described:
            assert option.description, f"{name}: {option.name}"
            assert "see `" not in option.description, f"{name}: {option.name}"
            assert option.allowed != "any value", f"{name}: {option.name}"


def test_help_without_a_format_lists_all() -> None:
    for command in ("convert", "export"):
        shown = run(command, "--help").stdout
        assert f"resnet-tasks data {command} FORMAT --help" in shown
        assert "  yolo " in shown
    assert "  binary-masks " in run("convert", "-h").stdout
    assert "[one of 'boxes', 'polygons'; default: boxes]" in run("export", "yolo", "-h").stdout
    assert "did you mean 'voc'?" in run("convert", "vox", "--help").stderr


@pytest.mark.parametrize("name", list(load_datasets()))
def test_help_on_a_dataset_has_its_settings_as_defaults(name: str) -> None:
    shown = " ".join(run("prepare", name, "--help").stdout.split())
    for option in load_datasets()[name].options:
        assert f" {option} " in shown
    if name == "bccd":
        assert "default: [RBC, WBC, Platelets]]" in shown
        assert "Source: clone or download the repository" in shown


def test_the_wrong_type_gets_the_allowed_values() -> None:
    result = run("convert", "voc", "a", "b", "one_based=2.5")
    assert result.exit_code == 2
    assert (
        "error: option one_based of the format 'voc': got 2.5; allowed is true or false "
        "(Whether coordinates count from 1" in result.stderr
    )


def test_sections_of_free_names_get_their_keys() -> None:
    options = ("category=x", "folders={train: images}")
    result = run("convert", "binary-masks", "a", "b", *options)
    assert result.exit_code == 2
    assert (
        "option folders.train of the format 'binary-masks': got 'images'; allowed is a section "
        "with the keys images, masks"
    ) in result.stderr


def write_dataset(folder: Path, box: list[float], **fields: object) -> Path:
    """Write a COCO file with one object in an image of 64 x 48 pixels."""
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 48}
    annotation = {"id": 7, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0} | fields
    categories = [{"id": 1, "name": "car"}]
    content = {"images": [image], "annotations": [annotation], "categories": categories}
    file = folder / "train.json"
    file.write_text(json.dumps(content | {"info": {}}))
    return file


def test_statistics_warn_of_boxes_in_fractions(tmp_path: Path) -> None:
    file = write_dataset(tmp_path, [0.1, 0.2, 0.3, 0.4])
    result = run("stats", str(file))
    assert result.exit_code == 0
    assert f"warning: {file}: 1 of 1 box has no coordinate outside 0..1" in result.stderr
    assert "--convert relative_boxes` converts them" in result.stderr


def test_check_of_a_folder_names_the_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").write_text("{}")
    result = run("check", str(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        result.stderr == f"error: {tmp_path} is a folder; name a file in it (annotations/a.json)\n"
    )


def test_a_repaired_copy_is_not_proposed_to_be_repaired_again(tmp_path: Path) -> None:
    file = write_dataset(tmp_path, [1, 2, 3, 4, 5])
    assert "--fix COPY` repairs the usual variants" in run("check", str(file)).output
    output = run("check", str(file), "--fix", str(tmp_path / "copy.json")).output
    assert "annotation 7 of image 1 (bbox [1, 2, 3, 4, 5]" in output
    assert "; --fix does not repair it" in output
    assert "repairs the usual variants" not in output


def test_skipped_masks_are_not_counted_as_objects(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_dataset(source, [1, 2, 30, 40], segmentation=[[1, 2, 31, 2]])
    output = run("convert", "coco", str(source), str(tmp_path / "out")).output
    assert "train: 1 image; objects: car 1" in output
    assert "skipped: 1 mask, listed in the data card" in output
