"""Which number chooses the best checkpoint, and when it is better."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resnet_tasks.errors import RecipeError
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.evaluation import EvaluationRecipe
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.training.state.progress import RunLength
from resnet_tasks.training.train_step import TrainStep
from resnet_tasks.training.validation import EvaluationPlan, Validation
from tests.support.shapes import Shapes

Build = Callable[..., TaskModel]
OPTIONS = TrainingRecipe(precision="fp32", device="cpu", ema=0.9)
NAME = "objects/AP"


def judge(model: TaskModel, **recipe: object) -> Validation:
    trainee = TrainStep(model, OPTIONS, RunLength(1, 1, 1))
    return Validation(Shapes(2), trainee, EvaluationPlan(EvaluationRecipe(**recipe)), batch_size=2)


def test_the_first_heads_main_metric_chooses(tiny_model: Build) -> None:
    made = judge(tiny_model())
    assert made.best_metric == NAME
    metrics = made.measure()
    assert made.select_headline_metrics(metrics) == ["objects/AP", "scene/mIoU"]
    assert made.find_improvement(metrics, None) == metrics[NAME].value
    assert judge(tiny_model(), best="scene/Dice").best_metric == "scene/Dice"
    with pytest.raises(RecipeError, match=r"evaluation\.best"):
        judge(tiny_model(), best="scene/nothing")


@pytest.mark.parametrize(
    ("value", "best", "lower", "expected"),
    [
        (0.5, None, False, 0.5),
        (0.5, 0.4, False, 0.5),
        (0.5, 0.5, False, None),
        (0.5, 0.6, False, None),
        (0.5, 0.6, True, 0.5),
        (0.5, 0.5, True, None),
        (0.5, 0.4, True, None),
        (0.0, None, False, 0.0),
        (None, None, False, None),
        (None, 0.4, False, None),
    ],
)
def test_equal_is_not_better_and_no_value_is_not_either(
    value: float | None,
    best: float | None,
    lower: bool,
    expected: float | None,
    tiny_model: Build,
) -> None:
    metrics = {NAME: Metric(value, lower_is_better=lower)}
    assert judge(tiny_model()).find_improvement(metrics, best) == expected


def test_the_mean_of_two_heads_chooses(tiny_model: Build) -> None:
    validation = judge(tiny_model(), best="mean(objects/AP, scene/mIoU)")
    metrics = {NAME: Metric(0.2), "scene/mIoU": Metric(0.6)}
    assert validation.select_console_values(metrics) == pytest.approx(
        {NAME: 0.2, "scene/mIoU": 0.6, "mean(objects/AP, scene/mIoU)": 0.4}
    )
    assert validation.find_improvement(metrics, 0.3) == pytest.approx(0.4)
    assert validation.find_improvement(metrics, 0.5) is None
    assert validation.find_improvement(metrics | {NAME: Metric(None)}, None) is None


def test_each_head_has_its_own_best(tiny_model: Build) -> None:
    metrics = {NAME: Metric(0.2), "scene/mIoU": Metric(0.6)}
    assert judge(tiny_model()).find_head_improvements(metrics, {}) == {}
    validation = judge(tiny_model(), best_per_head=True)
    assert validation.find_head_improvements(metrics, {}) == {"objects": 0.2, "scene": 0.6}
    assert validation.find_head_improvements(metrics, {"objects": 0.2, "scene": 0.5}) == {
        "scene": 0.6
    }
    undefined = metrics | {"scene/mIoU": Metric(None)}
    assert validation.find_head_improvements(undefined, {"objects": 0.1}) == {"objects": 0.2}


def test_where_the_metric_was_not_measured_nothing_is_better(tiny_model: Build) -> None:
    assert judge(tiny_model()).find_improvement({"scene/mIoU": Metric(0.5)}, None) is None


def test_the_batch_size_of_the_evaluation_wins(tiny_model: Build) -> None:
    assert judge(tiny_model()).batch_size == 2
    assert judge(tiny_model(), batch_size=5).batch_size == 5
