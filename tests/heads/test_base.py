from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import Tensor, nn

from resnet_tasks.errors import HeadError, ResnetTasksError
from resnet_tasks.heads.base import HEADS, Head, HeadOptions, register_head
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

SPECS = {"C4": FeatureSpec(8, 16), "C5": FeatureSpec(16, 32)}


class SmallOptions(HeadOptions):
    size: int = 3


class Small(Head):
    Options = SmallOptions
    task = "detection"
    in_levels = ("C4",)

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        return {}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}


def test_keeps_only_the_levels_it_reads() -> None:
    head = Small(SPECS, ["a", "b"])
    assert head.specs == {"C4": FeatureSpec(8, 16)}
    assert head.classes == ("a", "b")
    assert head.options.size == 3


def test_refuses_a_missing_level_and_names_those_offered() -> None:
    with pytest.raises(HeadError, match=r"offered levels \(C5\) do not include C4"):
        Small({"C5": SPECS["C5"]}, ["a"])


def test_refuses_no_classes() -> None:
    with pytest.raises(HeadError, match="at least one class"):
        Small(SPECS, [])


def test_options_errors_come_in_one_message() -> None:
    with pytest.raises(
        HeadError,
        match=r"size: .*'x'.*sise is not an option.*did you mean 'size'.*\(options are: size\)",
    ):
        Small(SPECS, ["a"], {"size": "x", "sise": 4})


def test_options_object_is_taken_as_it_is_and_is_frozen() -> None:
    options = SmallOptions(size=5)
    assert Small(SPECS, ["a"], options).options is options
    with pytest.raises(ValueError, match="frozen"):
        options.size = 6  # type: ignore[misc]


def test_registering_makes_a_head_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HEADS, "_items", dict(HEADS._items))
    assert register_head("small_one")(Small) is Small
    assert HEADS.get("small_one") is Small
    with pytest.raises(ResnetTasksError, match=r"unknown head 'smal_one'.*mean 'small_one'"):
        HEADS.get("smal_one")


def test_a_name_belongs_to_one_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HEADS, "_items", dict(HEADS._items))
    register_head("small_one")(Small)
    other = type("Other", (Small,), {"__module__": "elsewhere"})
    with pytest.raises(ResnetTasksError, match="'small_one' is registered twice"):
        register_head("small_one")(other)


def test_a_head_is_a_module() -> None:
    assert isinstance(Small(SPECS, ["a"]), nn.Module)
