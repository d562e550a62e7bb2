"""Listings of the parts and options that a user can name."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from resnet_tasks.assemble.heads import BUILT_IN_HEADS
from resnet_tasks.cli import app
from resnet_tasks.heads.base import HEADS
from resnet_tasks.inference.combiners import COMBINERS
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.presets import expand_preset

PLUGIN = '''
import torch
from resnet_tasks import HeadOptions, register_head
from resnet_tasks.heads.semantic.unet import UNet

class ListedOptions(HeadOptions):
    """Options.

    Attributes:
        width: Width of the plugin, pixels.
    """

    width: int = 12
    undocumented: torch.dtype = torch.float32

@register_head("listed_by_test")
class Listed(UNet):
    """Head of a plugin. It is described here.

    Args:
        specs: Not part of the introduction.
    """

    Options = ListedOptions
'''


@pytest.fixture(autouse=True)
def registries_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins of a test stay in the test."""
    assert BUILT_IN_HEADS  # they register when they are imported, which must be before the copy
    for registry in (HEADS, COMBINERS):
        monkeypatch.setattr(registry, "_items", dict(registry._items))


def run(*arguments: object, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(each) for each in arguments])


def mistake(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize(
    "name", ["classifier", "faster_rcnn", "fcos", "fpn", "mask_rcnn", "retinanet", "unet"]
)
def test_a_head_lists_every_option_with_meaning_values_and_default(name: str, columns: int) -> None:
    listed = run("heads", name, columns=columns)
    assert listed.exit_code == 0, listed.output
    lines = listed.stdout.splitlines()
    head = HEADS.get(name)
    assert lines[0].startswith(f"{name}: {head.task}")
    start = lines.index("Options (heads.NAME.options.KEY=VALUE):")
    first_words = [
        line.split()[0] for line in lines[start:] if line.startswith("  ") and line[2] > " "
    ]
    assert first_words == list(head.Options.model_fields)
    text = " ".join(listed.stdout.split())
    assert text.count("; default: ") == len(head.Options.model_fields)
    if columns >= 80:
        assert max(map(len, lines)) <= min(columns, 100)
    if name == "mask_rcnn":
        assert "IoU above which two detections of one class are duplicates. [a number from" in text
        assert "[one of 'smooth_l1', 'giou'; default: smooth_l1]" in text


def test_the_options_of_plugins_are_listed(tmp_path: Path) -> None:
    plugin = tmp_path / "listed.py"
    plugin.write_text(PLUGIN)
    text = run("heads", "listed_by_test", "--plugin", plugin).stdout
    assert "Head of a plugin. It is described here.\n" in text
    assert "Not part" not in text
    assert "  width         Width of the plugin, pixels.\n" in text
    assert "  undocumented  [any value" in text
    assert "listed_by_test" in run("heads", "--plugin", plugin).stdout
    assert "does not exist" in mistake("heads", "--plugin", tmp_path / "none.py")


def test_unknown_names_get_the_nearest() -> None:
    assert "did you mean 'unet'?" in mistake("heads", "unett")
    assert "did you mean 'froc'?" in mistake("evaluators", "frok")
    assert "did you mean 'Affine'?" in mistake("augmentations", "Afine")
    assert "unknown combiner 'x'" in mistake("combiners", "x")
    assert "did you mean 'training.epochs'?" in mistake("recipes", "keys", "training.epoch")


def test_evaluators_and_combiners() -> None:
    listed = run("evaluators").stdout
    assert listed.startswith("Evaluators (recipe: evaluation.extra.HEAD):\n  froc ")
    one = run("evaluators", "froc").stdout
    assert "Options (evaluation.extra.HEAD.froc.KEY=VALUE):" in one
    assert "[one of 'iou', 'center'; default: iou]" in one
    folder = Path(__file__).parents[1] / "support"
    combiner = run("combiners", "boxes_on_map", "--plugin", folder / "boxes_on_map.py").stdout
    assert "boxes: a head of detection" in combiner
    assert "  score  Score from which a box is painted.\n" in combiner


def test_augmentations(tmp_path: Path) -> None:
    listed = run("augmentations").stdout
    assert "  radiology           Steps for" in listed
    assert "\n  HorizontalFlip " in listed
    affine = run("augmentations", "Affine").stdout
    assert "Options (augment: [{Affine: {KEY: VALUE}}]):" in affine
    assert "  rotate_method " in affine
    preset = run("augmentations", "driving").stdout
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "data: {root: a, train: [{annotations: a}], val: [{annotations: b}]}\n"
        f"heads: {{scene: {{type: unet}}}}\n{preset}"
    )
    assert load_recipe(recipe).augment == expand_preset("driving", 3)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("training.epochs", "[a whole number from 1 to 1000000; default: 30]"),
        ("data.tiles", "data.tiles.height "),
        ("data.train.0", "data.train.N.annotations "),
        ("heads.cells", "heads.NAME.lr_scale "),
        ("heads.cells.options.nms_iou", "`resnet-tasks heads TYPE`"),
        ("evaluation.extra.cells.froc.hit", "`resnet-tasks evaluators` lists them"),
    ],
)
def test_keys_of_recipes(key: str, line: str) -> None:
    shown = run("recipes", "keys", key)
    assert shown.exit_code == 0, shown.output
    assert line in " ".join(shown.stdout.split())


def test_all_keys_are_listed_once() -> None:
    listed = run("recipes", "keys").stdout
    names = [line.split()[0] for line in listed.splitlines() if line[:2] == "  " and line[2] > " "]
    assert {"data.root", "training.epochs", "heads.NAME.type", "data.train.N.weight"} <= set(names)
    assert len(names) == len(set(names)) > 80
