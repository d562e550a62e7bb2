"""Help on the options of formats."""

from __future__ import annotations

import inspect

import pytest
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
