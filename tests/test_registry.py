"""Registering, looking up, and what is said about a miss."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.registry import Registry, find_nearest


def test_registered_objects_are_found() -> None:
    registry: Registry[type] = Registry("part")
    assert registry.register("int")(int) is int
    registry.register("float")(float)
    assert registry.get("int") is int
    assert list(registry) == registry.list_names() == ["float", "int"]
    assert "int" in registry
    assert "str" not in registry


def test_same_object_may_come_twice_another_may_not() -> None:
    registry: Registry[type] = Registry("part")
    registry.register("x")(int)
    registry.register("x")(int)  # a module imported again
    with pytest.raises(ResnetTasksError, match=r"part 'x' .*builtins\.int and builtins\.float"):
        registry.register("x")(float)
    assert registry.get("x") is int


def test_miss_names_all_and_the_nearest() -> None:
    registry: Registry[type] = Registry("part")
    registry.register("faster_rcnn")(int)
    registry.register("unet")(float)
    with pytest.raises(ResnetTasksError) as error:
        registry.get("faster_rcn")
    assert str(error.value) == (
        "unknown part 'faster_rcn'; known: faster_rcnn, unet; did you mean 'faster_rcnn'?"
    )
    with pytest.raises(ResnetTasksError, match=r"known: faster_rcnn, unet$"):
        registry.get("zzz")


def test_empty_registry_says_so() -> None:
    with pytest.raises(ResnetTasksError, match="known: none"):
        Registry[int]("part").get("x")


def test_entry_points_are_loaded_on_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[type] = Registry("part", group="some.group")
    asked: list[str] = []

    class Point:
        name = "mine"

        def load(self) -> None:
            registry.register("mine")(dict)

    def points(*, group: str) -> list[Any]:
        asked.append(group)
        return [Point()]

    monkeypatch.setattr("importlib.metadata.entry_points", points)
    assert registry.get("mine") is dict
    assert asked == ["some.group"]
    assert registry.list_names() == ["mine"]


def test_nearest() -> None:
    assert find_nearest("resent18", ["resnet18", "resnet50"]) == "resnet18"
    assert find_nearest("abc", ["xyz"]) is None
