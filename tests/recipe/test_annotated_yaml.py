"""Recipes whose comments explain every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from resnet_tasks.assemble.heads import get_head_class
from resnet_tasks.assemble.recipe_schema import build_recipe_schema
from resnet_tasks.cli import app
from resnet_tasks.heads.base import HEADS
from resnet_tasks.json_schema import JsonSchema
from resnet_tasks.recipe.annotated_yaml import annotate_recipe
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.shipped_recipes import list_recipes

TEXT = """\
data:
  root: 'a: b # c'
  train: [{annotations: a.json}, {annotations: "line\\nbreak.json", weight: 2.5}]
  val: [{annotations: val.json, categories: ['no', '1e-4', "it's", 'ä']}]
heads:
  boxes: {type: faster_rcnn, options: {nms_iou: 0.6}}
  same: {type: faster_rcnn, options: {}}
  'on': {type: unknown_head, options: {nested: [[1, 2], {a: null, b: .5}], empty: {}}}
combine: {both: {type: unknown, left: boxes, options: {}}}
augment: [{HorizontalFlip: null}, {Affine: {scale: {x: [1, 2]}}}, {Blur: {}}, {}]
training: {learning_rate: 1.0e-7, unfreeze: [], steps: [0.5]}
evaluation: {extra: {boxes: {froc: {hit: center}, kitti: null, mine: {}, surface: {}}}}
"""


@pytest.fixture(scope="module")
def schema() -> JsonSchema:
    return JsonSchema(build_recipe_schema())


def read_back(text: str, folder: Path) -> Recipe:
    path = folder / "again.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


@pytest.mark.parametrize("width", [30, 80, 160])
def test_the_result_reads_back_equal(tmp_path: Path, schema: JsonSchema, width: int) -> None:
    (tmp_path / "odd.yaml").write_text(TEXT, encoding="utf-8")
    recipe = load_recipe(tmp_path / "odd.yaml")
    text = annotate_recipe(recipe, schema, width)
    assert read_back(text, tmp_path) == recipe
    assert yaml.safe_load(text)["training"]["epochs"] == 30
    comments = [line for line in text.splitlines() if line.lstrip().startswith("# ")]
    if width >= 80:
        assert max(map(len, comments)) <= min(width, 100)


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes()])
def test_shipped_recipes_read_back_equal(tmp_path: Path, schema: JsonSchema, name: str) -> None:
    recipe = load_recipe(name)
    assert read_back(annotate_recipe(recipe, schema, 80), tmp_path) == recipe


def test_changed_values_are_marked_and_others_are_not(schema: JsonSchema) -> None:
    recipe = load_recipe("quickstart", ["training.epochs=7", "data.tiles={height: 64, width: 64}"])
    text = annotate_recipe(recipe, schema, 80)
    assert "\n  epochs: 7  # default: 30\n" in text
    assert "\n  momentum: 0.9\n" in text
    assert "\n    overlap: 0.25\n" in text
    plain = load_recipe("quickstart", ["training.epochs=30"])
    assert "\n  epochs: 30\n" in annotate_recipe(plain, schema, 80)


def test_every_key_is_explained_once(schema: JsonSchema) -> None:
    recipe = load_recipe("quickstart", ["data.test=[{annotations: test.json}]"])
    lines = annotate_recipe(recipe, schema, 80).splitlines()
    meaning = "# COCO JSON, relative to `data.root`. [text]"
    assert [line.strip() for line in lines].count(meaning) == 1
    section = lines.index("training:")
    for above, line in zip(lines[section:], lines[section + 1 :], strict=False):
        if line.startswith("  ") and not line.lstrip().startswith("#") and above != "training:":
            assert above.lstrip().startswith("# "), line


def test_options_at_their_defaults_can_be_set_by_removing_the_hash(
    tmp_path: Path, schema: JsonSchema
) -> None:
    recipe = load_recipe("quickstart", ["heads.objects.options={}"])
    text = annotate_recipe(recipe, schema, 80)
    assert "    options:\n" in text
    again = read_back(re.sub(r"(?m)^( +)#(?! )", r"\1", text), tmp_path)
    assert len(again.heads["objects"].options) > 20
    for name, head in recipe.heads.items():
        head_class = get_head_class(name, head)
        assert set(again.heads[name].options) == set(head_class.Options.model_fields)
        assert head_class.parse_options(again.heads[name].options) == head_class.parse_options(
            head.options
        )


def test_the_command_prints_it_and_says_what_plugins_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HEADS, "_items", dict(HEADS._items))  # the plugin stays in this test
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from resnet_tasks import HeadOptions, register_head\n"
        "from resnet_tasks.heads.semantic.unet import UNet\n"
        "class MineOptions(HeadOptions):\n"
        '    """Options.\n\n    Attributes:\n        depth: Depth of mine.\n    """\n'
        "    depth: int = 4\n"
        '@register_head("mine_annotated")\n'
        "class Mine(UNet):\n"
        '    """Mine."""\n'
        "    Options = MineOptions\n"
    )
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "plugins: [mine.py]\n"
        "data: {root: a, train: [{annotations: a}], val: [{annotations: b}]}\n"
        "heads: {scene: {type: mine_annotated}}\n"
    )
    command = ["recipes", "show", str(recipe), "--resolved"]
    plain = CliRunner().invoke(app, command)
    assert plain.exit_code == 0, plain.output
    assert "--trust-plugins runs their code" in " ".join(plain.stdout.replace("#", "").split())
    assert "Depth of mine" not in plain.stdout
    trusted = CliRunner().invoke(app, [*command, "training.epochs=3", "--trust-plugins"])
    assert "# Depth of mine. [a whole number]\n      #depth: 4\n" in trusted.stdout
    assert read_back(trusted.stdout, tmp_path).training.epochs == 3
    without = CliRunner().invoke(app, ["recipes", "show", str(recipe), "training.epochs=3"])
    assert without.exit_code == 2
    assert "training.epochs=3: KEY=VALUE needs --resolved" in without.stderr
