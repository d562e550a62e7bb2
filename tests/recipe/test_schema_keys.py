from __future__ import annotations

import pytest

from resnet_tasks.foreign_names import HEAD
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema_keys import find_schema, iter_key_paths, list_section_keys


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of a resolved recipe in the form of `iter_key_paths`."""
    if isinstance(value, dict):
        named = len(path) == 1 and path[0] in ("heads", "combine")
        if path and path[-1] in ("options", "extra"):
            return []
        return [
            leaf
            for key, child in value.items()
            for leaf in [(*path, key), *leaves(child, (*path, HEAD if named else key))]
            if not named or len(leaf) > 2
        ]
    if isinstance(value, list) and value and isinstance(value[0], dict) and path[0] != "augment":
        return leaves(value[0], (*path, 0))
    return []


@pytest.mark.parametrize("name", ["quickstart", "kitti_faster_rcnn_resnet50"])
def test_every_key_of_a_resolved_recipe_is_found(name: str) -> None:
    paths = set(iter_key_paths())
    resolved = leaves(load_recipe(name).model_dump(mode="json"))
    assert len(resolved) > 60
    assert [path for path in resolved if path not in paths] == []


def test_keys_at_any_depth() -> None:
    paths = set(iter_key_paths())
    for path in (
        ("training",),
        ("training", "epochs"),
        ("training", "unfreeze", 0, "epoch"),
        ("data", "train", 0, "weight"),
        ("data", "tiles", "overlap"),
        ("data", "normalize", "mean"),
        ("heads", HEAD, "loss_weight"),
        ("model_weights", "source"),
        ("evaluation", "sliding", "nms_iou"),
    ):
        assert path in paths
        assert find_schema(path)
    assert ("heads", HEAD) not in paths
    assert len(paths) > 120


def test_sections_and_other_values() -> None:
    assert list_section_keys(("data", "resize")) == ["height", "width", "keep_ratio"]
    assert "epochs" in list_section_keys(("training",))
    assert list_section_keys(("training", "epochs")) == []
    assert list_section_keys(("heads", "a", "options", "b")) == []
    assert find_schema(("no", "such")) == {}
