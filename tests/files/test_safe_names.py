"""Names that reach a path are validated wherever they enter; nothing is written outside."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from data_tools.writing.output_folder import place_inside
from resnet_tasks.assemble.extend_run import BaseRun
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.assemble.split_files import read_split
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.cli import app
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.images.find_images import make_output_names
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError, RecipeError, RunError
from resnet_tasks.exported.manifest import ExportedHead, Manifest, PixelRange
from resnet_tasks.files.safe_names import (
    MAX_LENGTH,
    RESERVED_HEADS,
    require_class_names,
    require_file_name,
    require_head_names,
)
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.inference.prediction_writer import PredictionWriter
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.load import load_recipe
from tests.support.random_runs import LIGHT, random_run

BAD_HEADS = [
    *("", ".", "..", ".hidden", "/abs/x", "../../x", "a/b", "a\\b", "..\\x", "C:x", "a.b", "a."),
    *("a b", " a", "a ", "-a", "_a", "a\0", "a\n", "a\x1b[2J", "a\u202eb", "\u00e9", "x" * 65),
    *("CON", "nul", "Lpt1", "com9", "aux", "prn"),
]
RECIPE = """\
data: {root: cells, train: [{annotations: train.json}], val: [{annotations: val.json}]}
backbone: {name: resnet10t, weights: none}
"""


def _run(*words: object) -> tuple[int, str]:
    """Exit code and everything printed, line ends folded."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def _files(folder: Path) -> set[str]:
    return {each.relative_to(folder).as_posix() for each in folder.rglob("*")}


@pytest.mark.parametrize("name", ["objects", "scene-2", "A_b", "0", "x" * MAX_LENGTH, "console"])
def test_plain_head_names(name: str) -> None:
    require_head_names([name, "other"])


@pytest.mark.parametrize("name", BAD_HEADS)
def test_head_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(RunError, match=r"^f\.json: the head name '.* cannot name a file") as caught:
        require_head_names(["objects", name], "f.json", RunError)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", [*RESERVED_HEADS, "Stream", "IMAGES"])
def test_reserved_head_names(name: str) -> None:
    with pytest.raises(DataError, match=f"^the head name '{name}' is reserved for .*rename"):
        require_head_names([name])


def test_head_names_that_differ_in_case_only() -> None:
    with pytest.raises(DataError, match="'Objects' and 'objects' differ in case only"):
        require_head_names(["Objects", "scene", "objects"])


@pytest.mark.parametrize("name", ["train", "fold0", "val (1)", "k\u00f6ln.2", "a-b_c"])
def test_split_names_are_of_any_script(name: str) -> None:
    require_file_name(name, "split")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a.", "a ", "../a", "a/b", "a\\b", "C:", "a\0", "con.x", "x" * 65]
)
def test_split_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(DataError, match=r"--names: the split name '.* cannot name a file"):
        require_file_name(name, "split", "--names")


def test_class_names_are_free_text_that_can_be_printed() -> None:
    require_class_names(["traffic light / red", "../x", "Zelle \u00fc", "\u7d30\u80de"])
    for name in ("a\0", "a\nb", "a\x1b[31m", "\x7f"):
        with pytest.raises(DataError, match=r"contains a control character, .* rename the class"):
            require_class_names([name])
        with pytest.raises(DataError, match=r"`categories\[0\]`: the class name 'a?.* contains a"):
            CategoryMap.from_json([{"id": 1, "name": name}])


@pytest.mark.parametrize("name", ["/abs/x", "../../x", "overlays", "a.b", "CON"])
def test_recipes(tmp_path: Path, name: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"{RECIPE}heads: {{{json.dumps(name)}: {{type: unet}}}}\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:3: heads: the head name .* (reserved|cannot)"):
        load_recipe(recipe)
    code, said = _run("finetune", recipe, "--data-root", tmp_path, "--out", tmp_path / "run")
    assert code == 2
    assert f"the head name {name!r}" in said
    assert _files(tmp_path) == {"r.yaml"}


def test_overrides(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"{RECIPE}heads: {{scene: {{type: unet}}}}\n")
    with pytest.raises(RecipeError, match=r"heads: the head name '/abs/x' cannot name a file"):
        load_recipe(recipe, ["heads={/abs/x: {type: unet}}"])
    with pytest.raises(RecipeError, match=r"'scene' and 'Scene' differ in case only"):
        load_recipe(recipe, ["heads.Scene={type: unet}"])
    with pytest.raises(RecipeError, match=r"name: got"):
        load_recipe(recipe, ['name="a\\u0000"'])


@pytest.fixture(scope="module")
def cells(draw_cells: Callable[..., Path]) -> Path:
    return draw_cells(train=2, val=1, size=(96, 96))


def _edited_run(folder: Path, cells: Path, files: Sequence[str], name: str) -> Path:
    """A run whose head `objects` has another name in some of its files."""
    run = random_run(folder / "run", cells, "quickstart", LIGHT).directory
    for file in files:
        content = (run / file).read_text()
        old = '"objects":' if file == "classes.json" else "  objects:"
        assert old in content
        (run / file).write_text(content.replace(old, f"  {json.dumps(name)}:"))
    return run


@pytest.mark.parametrize("files", [("recipe.yaml", "classes.json"), ("classes.json",)])
@pytest.mark.parametrize("name", ["../../escaped", "{}/escaped", "stream", "Overlays"])
def test_run_folders(tmp_path: Path, cells: Path, files: Sequence[str], name: str) -> None:
    name = name.format(tmp_path / "elsewhere")
    run = _edited_run(tmp_path, cells, files, name)
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    before = _files(tmp_path)
    for words in (
        ("predict", run, image, "--out", tmp_path / "out" / "deep"),
        ("evaluate", run, "--data-root", cells),
        ("explain", run, image, "--out", tmp_path / "out"),
        ("report", run),
        ("export", run, "--out", tmp_path / "out"),
        ("push", run, "lab/x", "--dry-run"),
    ):
        code, said = _run(*words)
        assert code == 2, words
        assert "the head name" in said, words
        assert repr(name[:40])[:-1] in said, words
    assert _files(tmp_path) == before


def test_files_of_different_runs(tmp_path: Path, cells: Path) -> None:
    """A head renamed to a plain name in one of two files has no classes."""
    run = _edited_run(tmp_path, cells, ("classes.json",), "cells")
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    code, said = _run("predict", run, image, "--out", tmp_path / "out")
    assert code == 2
    assert "the recipe has the heads objects, scene, but the classes" in said
    assert "belong to the heads cells, scene; restore recipe.yaml" in said


def test_heads_of_an_extended_run(tmp_path: Path, cells: Path) -> None:
    """New heads and those of the run lie in one folder."""
    old = random_run(tmp_path / "old", cells, "quickstart", LIGHT)
    recipe = tmp_path / "r.yaml"
    data = RECIPE.splitlines()[0]
    recipe.write_text(
        f"{data}\nheads: {{Objects: {{type: unet}}}}\nextend: {{run: {old.directory}}}"
    )
    new = load_recipe(recipe)
    base = BaseRun.from_recipe(new, None)
    assert base is not None
    with pytest.raises(RecipeError, match="'Objects' and 'objects' differ in case only"):
        base.extend_recipe(new, old.labels.categories)


PREPARATION = Preparation(3)
HEAD = ExportedHead("unet", "semantic_segmentation", ("x", "y"), (3, 90))


def _export(folder: Path, name: str, **changes: Any) -> Path:
    folder.mkdir()
    Manifest(
        format="onnx",
        heads={name: HEAD},
        categories=({"id": 3, "name": "x"}, {"id": 90, "name": "y"}),
        preparation=PREPARATION,
        pixels=PixelRange.from_preparation(PREPARATION),
        normalization={"mean": (0.5,) * 3, "std": (0.25,) * 3},
    ).write(folder)
    file = folder / "export.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    (folder / "model.onnx").write_bytes(b"a graph that is not reached")
    return folder


@pytest.mark.parametrize("name", ["../../escaped", "{}/escaped", "images"])
def test_exported_models(tmp_path: Path, name: str) -> None:
    name = name.format(tmp_path / "elsewhere")
    export = _export(tmp_path / "export", name)
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    before = _files(tmp_path)
    with pytest.raises(RunError, match=r"export\.json: heads: the head name .* (reserved|cannot)"):
        Manifest.read(export)
    code, said = _run("predict", export, image, "--out", tmp_path / "out" / "deep")
    assert code == 2
    assert f"the head name {name[:40]!r}"[:-1] in said
    assert _files(tmp_path) == before


def test_other_names_in_an_export(tmp_path: Path) -> None:
    graph = _export(tmp_path / "a", "scene", graph="../../etc/x.onnx")
    with pytest.raises(RunError, match=r"graph of an onnx export is model\.onnx, got '\.\./\.\./e"):
        Manifest.read(graph)
    heads = {"scene": {**HEAD.__dict__, "classes": ["x", "y\x1b[2J"]}}
    classes = _export(tmp_path / "b", "scene", heads=heads)
    with pytest.raises(RunError, match=r"heads\.scene\.classes: the class name .* control char"):
        Manifest.read(classes)
    assert Manifest.read(_export(tmp_path / "c", "scene")).graph == "model.onnx"


def test_predictions_do_not_go_among_the_files_of_a_model(tmp_path: Path, cells: Path) -> None:
    """A head called `classes` would replace `classes.json`."""
    run = random_run(tmp_path / "run", cells, "quickstart", LIGHT).directory
    before = _files(tmp_path)
    code, said = _run("predict", run, cells / "cells" / "images", "--recursive", "--out", run)
    assert code == 2
    assert f"{run.name} is a run folder, and predictions could replace its files" in said
    assert _files(tmp_path) == before


def test_writers_of_predictions(tmp_path: Path) -> None:
    for name in ("../x", "overlays"):
        with pytest.raises(DataError, match="the head name"):
            PredictionWriter(tmp_path / "out", {name: ("a",)}, {name: (1,)})
    assert _files(tmp_path) == set()


def test_outputs_are_named_by_the_last_part_of_a_file_name() -> None:
    files = [Path("/abs/a.png"), Path("../../a.png"), Path("b/../a.jpg")]
    assert make_output_names(files) == ["a", "a-2", "a-3"]


def test_places_of_converted_images(tmp_path: Path) -> None:
    assert place_inside(tmp_path, Path("a/b.c")) == tmp_path / "a/b.c"
    for name in ("../a", "/a", "a/../../b", "a\\..\\b", "C:a"):
        with pytest.raises(DataError, match=r"the source names '.*', which leads out of"):
            place_inside(tmp_path, Path(name))


def test_torch_gives_no_module_these_names() -> None:
    backbone = ResNet("resnet10t", weights="none")
    head = UNet(backbone.specs, ("a", "b"))
    for name in ("items", "training", "a.b", ""):
        with pytest.raises(
            RecipeError, match=f"the head name '{name}' is not allowed: torch refuses"
        ):
            TaskModel(backbone, {name: head})
    assert isinstance(TaskModel(backbone, {"scene": head}).heads, nn.ModuleDict)


def test_labels_of_a_run(cells: Path, tmp_path: Path) -> None:
    value = random_run(tmp_path / "run", cells, "quickstart", LIGHT).labels.to_json()
    value["heads"]["objects"]["classes"][0] = "a\nb"
    with pytest.raises(
        DataError, match=r"heads\.objects\.classes: the class name 'a\\nb' contains"
    ):
        Labels.from_json(value)


def test_splits_of_a_recipe() -> None:
    recipe = load_recipe("quickstart")
    for split in ("../../x", "root", "Train"):
        with pytest.raises(DataError, match=r"the splits train, val, test, not"):
            read_split(recipe, split, Path())  # type: ignore[arg-type]
