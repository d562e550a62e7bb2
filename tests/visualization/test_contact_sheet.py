"""Contact sheets: which images come, how they are drawn with their truth, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resnet_tasks.cli.app import app
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.errors import DataError
from resnet_tasks.visualization.colors import get_label_color
from resnet_tasks.visualization.contact_sheet import CAPTION, CELL, GAP, choose_images, draw_sheet
from resnet_tasks.visualization.legend import draw_legend


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Six gray images of different shapes; a dog on the even ones, one without its file."""
    images, annotations = [], []
    for i in range(6):
        size = (300 + 40 * i, 200)  # width, height
        if i != 5:
            Image.new("RGB", size, (128, 128, 128)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]})
        box = {"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": [50, 50, 100, 80]}
        annotations.append({**box, "area": 8000, "iscrowd": 0})
    annotations[2]["bbox"] = [0, 0, 9000, 80]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "cow"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path / "a.json"


def dataset(file: Path) -> CocoDataset:
    coco = read_coco(file)
    return CocoDataset([coco], categories=coco.categories, cache=False)


def test_images_are_chosen_by_seed_and_class(file: Path) -> None:
    data = dataset(file)
    assert choose_images(data, number=24) == list(range(6))
    chosen = choose_images(data, number=3, seed=1)
    assert len(chosen) == 3
    assert chosen == choose_images(data, number=3, seed=1)
    assert len({tuple(choose_images(data, number=3, seed=s)) for s in range(9)}) > 1
    assert choose_images(data, number=9, category="dog") == [0, 2, 4]
    with pytest.raises(DataError, match="'horse' is not a category"):
        choose_images(data, number=9, category="horse")
    with pytest.raises(DataError, match="no image has an object of the category 'cow'"):
        choose_images(data, number=9, category="cow")


def test_every_cell_shows_its_image_with_its_boxes(file: Path) -> None:
    sheet = draw_sheet(dataset(file), [0, 1, 5])
    height, width = 2 * (CELL[0] + CAPTION + GAP) + GAP, 2 * (CELL[1] + GAP) + GAP
    legend = draw_legend([("cat", get_label_color(0)), ("dog", get_label_color(2))], width, 0.5)
    assert sheet.shape == (height + len(legend), width, 3)
    assert np.array_equal(sheet[height:], legend)
    first = sheet[GAP : GAP + CELL[0], GAP : GAP + CELL[1]]
    assert (first[100, 20] == 128).all()  # the image
    assert (first == np.asarray(get_label_color(2))).all(axis=2).any()  # the box of a dog
    missing = sheet[GAP + CELL[0] + CAPTION + GAP :][: CELL[0], GAP : GAP + CELL[1]]
    assert (missing == 255).all()  # said below it


def test_masks_are_drawn_where_they_are_annotated(file: Path) -> None:
    """The first image has a triangle in its box; it is shown at 1.2 times its size."""
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = [[50, 50, 150, 130, 50, 130]]
    content["info"] = {"annotated": ["boxes", "masks"]}
    file.write_text(json.dumps(content))
    cell = draw_sheet(dataset(file), [0])[GAP : GAP + CELL[0], GAP : GAP + CELL[1]]
    blended = [int(0.55 * 128 + 0.45 * value) for value in get_label_color(2)]
    assert cell[138, 75].tolist() == blended
    assert cell[75, 150].tolist() == [128, 128, 128]  # inside the box, outside the triangle


def test_command(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheets" / "a.png"
    done = CliRunner().invoke(app, ["data", "preview", str(file), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "(6 images)" in done.output
    done = CliRunner().invoke(app, ["data", "preview", str(file), "--out", str(out), "--problems"])
    assert done.exit_code == 0, done.output
    with Image.open(out) as sheet:
        legend = draw_legend([("dog", get_label_color(2))], sheet.width, 0.5)
        assert sheet.height == CELL[0] + CAPTION + 2 * GAP + len(legend)
    call = ["data", "preview", str(file), "--out", str(out), "--problems", "--class", "dog"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 2
    assert "--problems and --class" in " ".join(done.output.split())
