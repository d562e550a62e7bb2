from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.report.gallery import Gallery
from resnet_tasks.report.page import write_report
from resnet_tasks.report.run_view import read_run
from resnet_tasks.report.sections import make_page
from resnet_tasks.visualization.colors import format_css_color


def gallery(made: Any) -> Gallery:
    run = read_run(made.folder)
    part = make_page(run, run.find_evaluation(), None).gallery
    assert not part.problem
    assert isinstance(part.value, Gallery)
    return part.value


def test_right_wrong_and_missed_boxes_are_told_apart(made: Any) -> None:
    first = next(each for each in gallery(made).images if each.image_id == 1)
    assert re.findall(r'class="(boxes truth[^"]*)"', first.truth) == [
        "boxes truth",
        "boxes truth missed",  # its box scores 0.3, below the slider's 0.5
    ]
    assert re.findall(r'class="(boxes found[^"]*)"', first.prediction) == [
        "boxes found",
        "boxes found wrong",
        "boxes found below",
    ]
    assert 'data-score="0.3000"' in first.truth
    assert first.truth.count('class="maps"') == 1
    assert first.prediction.count('class="differences"') == 1
    assert first.prediction.rindex("data:image/png") < first.prediction.index("boxes found")


def test_images_that_are_gone_are_counted(made: Any, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for each in made.data.glob("*.json"):
        (moved / each.name).write_text(each.read_text())
    text = (made.folder / "recipe.yaml").read_text().replace(str(made.data), str(moved))
    (made.folder / "recipe.yaml").write_text(text)
    part = make_page(read_run(made.folder), read_run(made.folder).find_evaluation(), None).gallery
    assert part.value.images == ()
    assert "3 chosen images do not exist" in part.value.notes[0]


def test_classes_of_whole_images_stand_beside_them(made: Any) -> None:
    """The head's results say what it is: here the boxes become classes with scores."""
    rows = [{"image_id": 1, "category_ids": [20, 10, 40, 30], "scores": [0.7, 0.2, 0.06, 0.04]}]
    (made.evaluation / "predictions" / "objects.json").write_text(json.dumps(rows))
    made_gallery = gallery(made)
    first = next(each for each in made_gallery.images if each.image_id == 1)
    names = made.names
    shown = f"{names[1]} 0.70, {names[0]} 0.20, {names[3]} 0.06"
    assert first.labels == (("objects", "not annotated", shown),)
    assert not made_gallery.has_boxes
    other = next(each for each in made_gallery.images if each.image_id == 2)
    assert other.labels == (("objects", "not annotated", "none"),)


def test_values_of_a_plugin_stand_beside_the_images(made: Any) -> None:
    """Results that are neither boxes nor classes, such as counts."""
    rows = [
        {"image_id": 1, "category_id": 20, "count": 1.23456},
        {"image_id": 1, "category_id": 10, "count": 7},
        {"image_id": 1, "quality": "good"},
    ]
    (made.evaluation / "predictions" / "objects.json").write_text(json.dumps(rows))
    made_gallery = gallery(made)
    first = next(each for each in made_gallery.images if each.image_id == 1)
    names = made.names
    shown = f"{names[1]} count 1.235, {names[0]} count 7, quality good"
    assert first.labels == (("objects", "not drawn", shown),)
    assert not made_gallery.has_boxes


def test_masks_lie_between_maps_and_boxes(made: Any) -> None:
    made.add_masks()
    made_gallery = gallery(made)
    assert made_gallery.has_masks
    first = next(each for each in made_gallery.images if each.image_id == 1)
    for drawing, kinds in (
        (first.truth, ["truth", "truth missed"]),
        (first.prediction, ["found", "found wrong", "found below"]),
    ):
        masks = re.findall(r'class="masks ([^"]*)"[^>]*><path d="M([^Z]*)Z"', drawing)
        assert [kind for kind, _ in masks] == kinds
        assert drawing.rindex('class="maps"') < drawing.index('class="masks')
        assert drawing.rindex('class="masks') < drawing.index('class="boxes')
    # Left half of the box [10, 10, 30, 20], through the centers of its outer pixels.
    places = [
        float(value) for pair in masks_of(first.truth)[0].split() for value in pair.split(",")
    ]
    assert min(places[0::2]) == pytest.approx(10.2, abs=0.3)
    assert max(places[0::2]) == pytest.approx(24.8, abs=0.3)
    assert max(places[1::2]) == pytest.approx(29.8, abs=0.3)


def masks_of(drawing: str) -> list[str]:
    """Points of the paths of the masks."""
    return re.findall(r'<path d="M([^Z]*)Z"', drawing)


def test_runs_without_masks_have_no_layer_of_masks(made: Any) -> None:
    assert not gallery(made).has_masks
    assert (
        "masks"
        not in write_report(made.folder).read_text().partition("<body")[2].partition("<script")[0]
    )


def test_a_class_has_one_color_in_images_legend_charts_and_tables(made: Any) -> None:
    run = read_run(made.folder)
    page = make_page(run, run.find_evaluation(), None)
    expected = {name: format_css_color(c) for name, c in run.labels.class_colors.items()}
    assert len(set(expected.values())) == len(made.names)
    assert dict(page.gallery.value.classes) == expected
    objects = next(section for section in page.heads if section.name == "objects")
    assert objects.classes is not None
    assert {name: color for name, color, _ in objects.classes.rows} == expected
    curves = next(chart for chart in objects.charts if chart.title == "Precision and recall")
    assert {name: color for name, _, color in curves.legend if color} == expected
    first = next(each for each in page.gallery.value.images if each.image_id == 1)
    assert re.findall(r"--box:(#\w+)", first.truth) == [expected[n] for n in made.names[:2]]
    # The label map shows the first category.
    uri = re.search(r"data:image/png;base64,([^\"]*)", first.truth)
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri[1]))) as image:
        pixels = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    shown = {format_css_color((r, g, b)) for r, g, b, alpha in pixels.tolist() if alpha}
    assert shown == {expected[made.names[0]]}
