"""`explain` over files: drawings, a list, and sentences for what was not found."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from resnet_tasks.cli import app
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.visualization.colors import assign_class_colors
from tests.support.random_runs import untrained_run

LIGHT = (
    "data.resize={height: 64, width: 96}",
    "heads.objects.options={score_threshold: 0.0, pyramid_channels: 32, box_head_channels: 32}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with random weights: what it sees is nonsense, what it writes is not."""
    folder = tmp_path_factory.mktemp("runs") / "random"
    names = ("granular", "striated", "lobed")
    categories = CategoryMap(tuple(Category(i + 1, name) for i, name in enumerate(names)))
    return untrained_run(folder, load_recipe("quickstart", LIGHT), categories).directory


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 256, (48, 72, 3), np.uint8))
    return folder


def _explain(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_drawings_and_a_list_of_every_head(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = _explain(run, images, "--out", out, "--level", "C3")
    assert result.exit_code == 0, result.output
    entries = json.loads((out / "explanations.json").read_text())
    assert [(Path(each["image"]).name, each["head"]) for each in entries] == [
        ("a.png", "objects"),
        ("a.png", "scene"),
        ("b.png", "objects"),
        ("b.png", "scene"),
    ]
    for each in entries:
        drawing = cv2.imread(str(out / each["drawing"]))
        assert drawing is not None
        height, width = drawing.shape[:2]
        assert width >= 512
        assert height > 48 * (width // 72)  # caption, legend and color scale
        assert 0 <= each["score"] <= 1
        color = assign_class_colors(("granular", "striated", "lobed"))[each["class"]]
        assert (drawing[:20, :40, ::-1] == color).all(axis=2).any()  # the legend
        x, y = each["strongest_place_xy"]
        assert 0 <= x < 72
        assert 0 <= y < 48


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--class", "granula"), "did you mean 'granular'"),
        (("--head", "object"), "did you mean 'objects'"),
        (("--level", "P3"), "the model has C1, C2, C3, C4, C5"),
        (("--box", "1,2,3"), "write X1,Y1,X2,Y2"),
        (("--box", "9,9,3,3"), "has no area"),
        (("--head", "objects", "--box", "500,500,600,600"), "no detection overlaps"),
    ],
)
def test_mistakes_get_a_sentence(
    run: Path, images: Path, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    result = _explain(run, images, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2, result.output
    assert text in result.stderr
