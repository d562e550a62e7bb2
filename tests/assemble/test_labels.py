"""What heads make of the categories of a data set, and errors that say what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resnet_tasks.assemble.labels import Labels, build_labels
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.structures.evaluation import ABSENT, IGNORED, VOID
from tests.support.small_recipes import CATEGORIES, recipe


def test_boxes_take_the_things_and_pixels_take_all() -> None:
    labels = build_labels(recipe(a={"type": "faster_rcnn"}, b={"type": "unet"}), CATEGORIES)
    assert labels.heads["a"].classes == ("car", "person")
    assert labels.heads["a"].category_ids == (3, 9)
    assert labels.heads["a"].table.mapping == (0, IGNORED, 1)
    assert labels.heads["b"].classes == ("car", "road", "person")
    assert labels.heads["b"].table.unlabeled == VOID


def test_background_comes_first_and_takes_others_when_asked() -> None:
    part = {"type": "unet", "background": True, "classes": ["person"]}
    ignoring = build_labels(recipe(a=part), CATEGORIES).heads["a"]
    assert ignoring.classes == ("background", "person")
    assert ignoring.category_ids == (0, 9)
    assert ignoring.table.mapping == (IGNORED, IGNORED, 1)
    assert ignoring.table.unlabeled == 0
    taking = build_labels(recipe(a={**part, "others": "background"}), CATEGORIES).heads["a"]
    assert taking.table.mapping == (0, 0, 1)
    boxes = {"type": "faster_rcnn", "classes": ["person"], "others": "background"}
    assert build_labels(recipe(a=boxes), CATEGORIES).heads["a"].table.mapping == (ABSENT, ABSENT, 0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"type": "faster_rcnn", "background": True}, "only semantic heads have a background"),
        ({"type": "unet", "others": "background"}, "set heads.a.background: true"),
        ({"type": "unet", "classes": ["persn"]}, "did you mean 'person'"),
    ],
)
def test_labels_that_do_not_fit(head: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_labels(recipe(a=head), CATEGORIES)


def test_unknown_head_type_comes_with_its_key_path() -> None:
    made = recipe(a={"type": "yolo"})
    with pytest.raises(RecipeError, match=r"heads\.a\.type: unknown head 'yolo'"):
        build_labels(made, CATEGORIES)


def test_a_class_has_the_same_color_in_every_run_of_the_categories() -> None:
    boxes = {"type": "faster_rcnn", "classes": ["person"]}
    pixels = {"type": "unet", "background": True, "classes": ["road", "person"]}
    both = build_labels(recipe(a=boxes, b=pixels), CATEGORIES).class_colors
    assert list(both) == ["car", "person", "road"]
    assert len(set(both.values())) == 3
    turned = CategoryMap(CATEGORIES.categories[::-1])
    assert build_labels(recipe(a=boxes), turned).class_colors == both
    assert build_labels(recipe(b=pixels), CATEGORIES).class_colors == both


def test_labels_survive_json() -> None:
    labels = build_labels(recipe(a={"type": "faster_rcnn"}, b={"type": "unet"}), CATEGORIES)
    assert Labels.from_json(json.loads(json.dumps(labels.to_json()))) == labels


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "category_ids",
            [3],
            r"heads\.a\.category_ids must have one id for each of 2 classes",
        ),
        ("mapping", [0, 1], r"heads\.a\.mapping must have one label for each of 3 categories"),
        ("mapping", [0, -1, 2], r"heads\.a: the label 2 does not exist; allowed: -2 to 1"),
        ("unlabeled", 7, r"heads\.a: the label 7 does not exist"),
    ],
)
def test_labels_of_a_damaged_file_are_refused(key: str, value: Any, message: str) -> None:
    stored = build_labels(recipe(a={"type": "faster_rcnn"}), CATEGORIES).to_json()
    stored["heads"]["a"][key] = value
    with pytest.raises(DataError, match=message):
        Labels.from_json(stored)
