"""Additional evaluators by name: all that there are keep to the contract."""

from __future__ import annotations

import pytest

from resnet_tasks.errors import RecipeError
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator
from resnet_tasks.evaluation.protocols.kitti import KittiEvaluator
from resnet_tasks.evaluation.protocols.registry import build_extra_evaluator
from resnet_tasks.evaluation.protocols.surface_distance import SurfaceEvaluator
from resnet_tasks.registry import EXTRA_EVALUATORS
from resnet_tasks.structures.evaluation import DetailedEvaluator, ResamplableEvaluator
from resnet_tasks.structures.tasks import Task, get_task

BUILT_IN = {"froc": FrocEvaluator, "kitti": KittiEvaluator, "surface": SurfaceEvaluator}


def test_every_evaluator_keeps_to_the_contract_before_any_image() -> None:
    assert all(EXTRA_EVALUATORS.get(name) is each for name, each in BUILT_IN.items())
    for name in EXTRA_EVALUATORS:
        task = get_task(EXTRA_EVALUATORS.get(name).task)
        made = build_extra_evaluator(name, None, classes=("a", "b"), task=task)
        assert isinstance(made, ResamplableEvaluator)
        assert isinstance(made, DetailedEvaluator)
        assert made.image_ids == ()
        assert all(each.value is None for each in made.compute().values())
        assert all(set(each.per_class) <= {"a", "b"} for each in made.compute().values())
        made.details()


def test_evaluators_of_further_families_fit_a_task() -> None:
    class OwnTask(type(get_task("detection"))):  # type: ignore[misc]
        name = "own"
        evaluator_families = ("detection",)

    class OtherTask(OwnTask):
        evaluator_families = ()

    own: Task = OwnTask()
    assert isinstance(build_extra_evaluator("froc", None, classes=("a",), task=own), FrocEvaluator)
    with pytest.raises(RecipeError, match=r"'surface' evaluates .* is own; .* are: froc, kitti"):
        build_extra_evaluator("surface", None, classes=("a",), task=own)
    with pytest.raises(RecipeError, match="of the head is own; its evaluators are: none"):
        build_extra_evaluator("froc", None, classes=("a",), task=OtherTask())
