from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from resnet_tasks.errors import RecipeError, limit_name
from resnet_tasks.recipe.load import get_recipe_schema, load_recipe, recipe_to_yaml
from resnet_tasks.recipe.schema.training import TrainingRecipe

GOOD = """\
data:
  root: cells
  train: [{annotations: train.json}]
  val: [{annotations: val.json}]
heads:
  cells: {type: unet, options: {dropout: 0.1}}
  boxes: {type: faster_rcnn}
training:
  epochs: 3
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_values_defaults_and_name(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    assert recipe.name == "mine"
    assert recipe.training.epochs == 3
    assert recipe.training.learning_rate == TrainingRecipe().learning_rate
    assert list(recipe.heads) == ["cells", "boxes"]
    assert recipe.heads["cells"].options == {"dropout": 0.1}


def test_a_pipe_in_place_of_a_recipe_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    assert message(tmp_path / "recipe.yaml") == (
        f"recipe {tmp_path / 'recipe.yaml'} cannot be read: it is a pipe or another special file, "
        "and a recipe is read only from a regular file; save it as a file"
    )


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("  epohs: 4", ["unknown key 'training.epohs'", "did you mean 'training.epochs'?"]),
        ("  batch_size: 0", ["training.batch_size: got 0", "a whole number from 1 to 65536"]),
        ("  batch_size: '8'", ['training.batch_size: got "8"', "a whole number"]),
        ("  batch_size: 8.5", ["training.batch_size: got 8.5", "a whole number"]),
        ("  batch_size: true", ["training.batch_size: got true", "a whole number"]),
        ("  batch_size:", ["training.batch_size: got nothing (null)"]),
        (
            "  warmup: 1",
            ["training.warmup: got 1", "at least 0 and below 1", "Fraction of the run"],
        ),
        ("  learning_rate: 0", ["training.learning_rate: got 0", "a number above 0"]),
        ("  learning_rate: fast", ['got "fast"', "a number above 0"]),
        ("  precision: fp8", ['"fp8"', "one of 'auto', 'fp32', 'bf16', 'fp16'"]),
        ("  deterministic: yes", ['deterministic: got "yes"', "true or false"]),
        ("  deterministic: 1", ["deterministic: got 1", "true or false"]),
        ("  steps: 0.5", ["training.steps: got 0.5", "a list"]),
        ("  steps: [0.5, 2]", ["training.steps.1: got 2", "from 0 to 1"]),
        ("  device: 0", ["training.device: got 0", "text"]),
    ],
)
def test_a_wrong_value_is_explained_with_its_line(
    tmp_path: Path, line: str, parts: list[str]
) -> None:
    path = written(tmp_path, GOOD + line + "\n")
    told = message(path)
    assert told.startswith(f"{path}:10: ")
    assert "\n" not in told
    for part in parts:
        assert part in told


def test_sections(tmp_path: Path) -> None:
    wrong = GOOD.replace("  root: cells\n", "").replace("val.json", "val.json, imges: x")
    told = message(written(tmp_path, wrong + "epochs: 3\naugment: [Flip]\n")).splitlines()
    path = tmp_path / "mine.yaml"
    assert len(told) == 4
    assert f"{path}:1: data.root is missing; give text (Folder below --data-root" in told[0]
    assert told[1] == (
        f"{path}:3: unknown key 'data.val.0.imges'; known under 'data.val.0': annotations, images, "
        "annotated, allow_outside, categories, weight; did you mean 'data.val.0.images'?"
    )
    assert f'{path}:10: augment.0: got "Flip"; allowed is a section of keys' in "\n".join(told)
    assert "unknown key 'epochs'" in told[3]
    assert "did you mean 'training.epochs'?" in told[3]


def test_a_union_is_explained_once(tmp_path: Path) -> None:
    told = message(written(tmp_path, GOOD.replace("root: cells", "root: cells\n  cache: maybe")))
    assert "data.cache: got \"maybe\"; allowed is true or false or 'auto'" in told
    assert "\n" not in told


def test_rules_between_keys(tmp_path: Path) -> None:
    told = message(written(tmp_path, GOOD + "evaluation: {best: nuclei/mIoU}\n"))
    assert "evaluation.best is 'nuclei/mIoU', but the heads are cells, boxes" in told
    window = GOOD.replace("root: cells", "root: cells\n  intensity: {type: window, level: 40}")
    told = message(written(tmp_path, window))
    assert ":3: data.intensity: a window needs both level and width" in told


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.intensity.level=40", "level goes with type: window, but the type is auto"),
        ("data.intensity={type: percentile, width: 4}", "width goes with type: window"),
        ("data.intensity.low=1", "low goes with type: percentile, but the type is auto"),
        (
            "data.intensity={type: window, level: 1, width: 2, per_channel: true}",
            "per_channel goes with type: percentile, but the type is window",
        ),
    ],
)
def test_intensity_values_of_another_type_are_no_use(
    tmp_path: Path, override: str, part: str
) -> None:
    assert part in message(written(tmp_path, GOOD), override)


LAYERS = GOOD + "backbone: {layers: [1, 1, 2, 1], block: basic, weights: none}\n"


def test_a_depth_of_ones_own_is_read_from_a_file_and_back(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, LAYERS))
    assert (recipe.backbone.name, recipe.backbone.layers) == ("resnet", (1, 1, 2, 1))
    again = tmp_path / "again.yaml"
    again.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(again).backbone == recipe.backbone
    deeper = load_recipe(again, ["backbone.layers.2=3"])
    assert deeper.backbone.layers == (1, 1, 3, 1)


@pytest.mark.parametrize(
    ("layers", "part"),
    [
        ("[1, 1, 1]", "backbone.layers: got [1, 1, 1]; allowed is null or a list of 4, each entry"),
        ("[1, 1, 1, 1, 1]", "backbone.layers: got [1, 1, 1, 1, 1]; allowed is null or a list of 4"),
        ("[1, 1, 1, 0]", "backbone.layers.3: got 0; allowed is a whole number from 1 to 512"),
        ("[1, 1, 1.0, 1]", "backbone.layers.2: got 1.0; allowed is a whole number"),
        ("7", "backbone.layers: got 7; allowed is null or a list of 4"),
    ],
)
def test_depths_that_are_none(tmp_path: Path, layers: str, part: str) -> None:
    said = message(written(tmp_path, LAYERS), f"backbone.layers={layers}")
    assert said.startswith(f"override 'backbone.layers={layers}': ")
    assert part in said


def test_all_problems_of_text_and_overrides_come_together(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "  batch_size: 0\n  wrong: 1\n")
    told = message(path, "training.epochs=x", "nonsense", "backbone.nme=resnet50").splitlines()
    assert len(told) == 5
    assert sum(line.startswith(f"{path}:") for line in told) == 2
    assert "override 'nonsense' is not of the form key=value" in told[0]
    assert any(
        line.startswith("override 'training.epochs=x': training.epochs: got \"x\"") for line in told
    )
    assert any("did you mean 'backbone.name'?" in line for line in told)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("data: [1, 2\nheads: {}\n", "line 2, column 6: this is not valid YAML"),
        ("data: 1\ndata: 2\n", "line 2, column 1"),
        ("data: 1\ndata: 2\n", "the key 'data' is repeated; it first appears on line 1"),
        ("a: &x 1\nb: *x\n", "line 2, column 4: this is not valid YAML: the alias *x"),
        ("a: !!python/object:os.system {}\n", "the tag tag:yaml.org,2002:python/object:os.system"),
        ("1: x\n", "a key must be text"),
        ("- 1\n", "a recipe consists of the keys name, plugins, data"),
        ("", "got nothing (null)"),
        ("x " * 5000, 'got "' + "x " * 29 + "…"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
        ("a: " + "[" * 500, "nesting is more than 30 levels"),
        ("a: \x07", "this is not valid YAML"),
    ],
)
def test_what_is_no_recipe_at_all(tmp_path: Path, text: str, part: str) -> None:
    path = written(tmp_path, text)
    told = message(path)
    assert part in told
    assert str(path) in told
    assert "\n" not in told


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.npz"
    path.write_bytes(b"\x80\x02\xff")
    assert message(path) == f"{path} is not a UTF-8 text file; a recipe is a YAML file in UTF-8"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("1e-4", 1e-4),
        ("5", 5),
        ("0x10", 16),
        ("017", 17),
        ("[0.5,0.8]", [0.5, 0.8]),
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("", None),
        ("'5'", "5"),
        ("{a: 1}", {"a": 1}),
        ("timm:a1_in1k", "timm:a1_in1k"),
        ("https://x.y/z#sha256=ab", "https://x.y/z#sha256=ab"),
        ("2020-01-01", "2020-01-01"),
        ("1:30", "1:30"),
    ],
)
def test_overrides_are_typed_as_yaml_1_2(tmp_path: Path, override: str, value: Any) -> None:
    recipe = load_recipe(written(tmp_path, GOOD), [f"heads.cells.options.deep.er={override}"])
    found = recipe.heads["cells"].options["deep"]["er"]
    assert found == value
    assert type(found) is type(value)
    assert recipe.heads["cells"].options["dropout"] == 0.1


def test_overrides_reach_lists_and_the_last_one_wins(tmp_path: Path) -> None:
    recipe = load_recipe(
        written(tmp_path, GOOD),
        [
            "training.steps=[0.5,0.8]",
            "data.train.0.annotations=a.json",
            "training.epochs=5",
            "training.epochs=6",
        ],
    )
    assert recipe.training.steps == (0.5, 0.8)
    assert recipe.data.train[0].annotations == "a.json"
    assert recipe.training.epochs == 6


@pytest.mark.parametrize(
    ("override", "part"),
    [
        (
            "heads.cels.loss_weight=2",
            "no head 'cels'; its heads are cells, boxes; did you mean 'cells'?",
        ),
        ("data.train.1.annotations=x", "data.train is a list of length 1; got position '1'"),
        (
            f"data.train.{'1' * 5000}.images=x",
            "data.train is a list of length 1; got position '1111",
        ),
        ("data.root.x=1", "data.root is 'cells', which has no key 'x'"),
        ("training.steps=[0.5", "line 1, column 5: this is not valid YAML"),
        ("trainng.epochs=3", "unknown key 'trainng'; known at the top: name, plugins, data"),
        ("=3", "not of the form key=value"),
    ],
)
def test_overrides_that_cannot_be_placed(tmp_path: Path, override: str, part: str) -> None:
    told = message(written(tmp_path, GOOD), override)
    assert told.startswith(f"override {limit_name(override)!r}")
    assert part in told


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data.bad_pictures", "data.unreadable_images"),
        ("data.bad_pictures_limit", "data.unreadable_images_limit"),
        ("data.copy_paste.share", "data.copy_paste.fraction"),
    ],
)
def test_keys_of_earlier_versions_name_their_successors(tmp_path: Path, old: str, new: str) -> None:
    told = message(written(tmp_path, GOOD), f"{old}=0.5")
    assert f"unknown key {old!r}" in told
    assert told.endswith(f"; did you mean {new!r}?")
    load_recipe(written(tmp_path, GOOD), [f"{new}={'skip' if new.endswith('images') else 0.5}"])


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    tricky = [
        "heads.cells.classes=['no','1e-4','017','0o7','true','null','2020-01-01','a: b','ä']",
        "training.learning_rate=1e-7",
        "heads.cells.options.nested=[[1, 2], {a: null, b: .5}]",
        "evaluation.best=cells/mIoU",
    ]
    recipe = load_recipe(written(tmp_path, GOOD), tricky)
    again = tmp_path / "again.yaml"
    again.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(again) == recipe
    assert yaml.safe_load(again.read_text("utf-8"))["training"]["epochs"] == 3


def test_the_schema_names_every_top_key_and_refuses_others() -> None:
    schema = get_recipe_schema()
    assert {"data", "heads", "training", "plugins"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_reading_a_recipe_does_not_import_torch() -> None:
    code = (
        "import sys; from resnet_tasks.recipe.load import load_recipe; load_recipe('quickstart'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
