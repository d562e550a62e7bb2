"""Weights between heads: the papers' formulas by hand, learning, logging, resuming to the bit."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.checkpoint import load_checkpoint
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.state.balancing import (
    LOSS_BALANCERS,
    DynamicWeightAverage,
    FixedBalancer,
    UncertaintyBalancer,
)
from resnet_tasks.training.state.progress import RunLength
from resnet_tasks.training.train_step import TrainStep
from tests.support.interrupting import asked_to_stop_at
from tests.support.shapes import Shapes

HEADS = ("a", "b")


def losses(a: float, b: float) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(a, requires_grad=True), "b": torch.tensor(b, requires_grad=True)}


def test_fixed_is_the_sum() -> None:
    made = FixedBalancer(HEADS)
    assert made.combine_losses(losses(2.0, 0.5), {}, 1.0).item() == 2.5
    assert made.compute_weights() == {"a": 1.0, "b": 1.0}
    assert list(made.parameters()) == []


def test_uncertainty_is_equation_10() -> None:
    made = UncertaintyBalancer(HEADS)
    with torch.no_grad():
        made.log_variances["a"].fill_(0.4)
        made.log_variances["b"].fill_(-1.0)
    given = losses(2.0, 0.5)
    total = made.combine_losses(given, made.get_variables(), 1.0)
    expected = math.exp(-0.4) * 2 + 0.2 + math.exp(1.0) * 0.5 - 0.5
    assert total.item() == pytest.approx(expected)
    total.backward()
    assert given["a"].grad is not None
    assert given["a"].grad.item() == pytest.approx(math.exp(-0.4))
    slope = made.log_variances["b"].grad
    assert slope is not None
    assert slope.item() == pytest.approx(-math.exp(1.0) * 0.5 + 0.5)
    assert made.compute_weights()["b"] == pytest.approx(math.exp(1.0))


def test_uncertainty_settles_where_each_head_gives_one_half() -> None:
    made = UncertaintyBalancer(HEADS)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        made.combine_losses(losses(8.0, 0.05), made.get_variables(), 1.0).backward()
        optimizer.step()
    weights = made.compute_weights()
    assert weights["a"] * 8 == pytest.approx(0.5, abs=1e-3)
    assert weights["b"] * 0.05 == pytest.approx(0.5, abs=1e-2)


def test_a_head_without_labels_keeps_its_uncertainty() -> None:
    made = UncertaintyBalancer(HEADS)
    given = losses(2.0, 0.5)
    made.combine_losses({"a": given["a"]}, made.get_variables(), 1.0).backward()
    assert made.log_variances["b"].grad == 0  # exchanged between processes
    made.drop_gradients(["b"])
    assert made.log_variances["b"].grad is None
    assert made.log_variances["a"].grad is not None


def test_dwa_is_equation_7() -> None:
    made = DynamicWeightAverage(HEADS)
    for step in ({"a": 4.0, "b": 2.0}, {"a": 2.0, "b": 2.0}):
        made.record_losses(step)
    made.end_epoch()
    assert made.compute_weights() == {"a": 1.0, "b": 1.0}
    made.record_losses({"a": 1.5, "b": 2.0})
    made.record_losses({"a": 1.5})
    made.end_epoch()
    # a fell from 3 to 1.5, b stayed at 2: exp(0.5 / 2) and exp(1 / 2), scaled to sum to 2.
    first, second = math.exp(0.25), math.exp(0.5)
    expected = {"a": 2 * first / (first + second), "b": 2 * second / (first + second)}
    assert made.compute_weights() == pytest.approx(expected)
    total = made.combine_losses(losses(3.0, 1.0), {}, 1.0).item()
    assert total == pytest.approx(3 * expected["a"] + expected["b"])
    made.record_losses({"a": 1.0})  # b had no labels in this epoch
    made.end_epoch()
    first, second = math.exp(1 / 1.5 / 2), math.exp(0.5)
    assert made.compute_weights()["a"] == pytest.approx(2 * first / (first + second))


class Partly(Shapes):
    """Only boxes on the first images."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        known = sample.target
        return replace(sample, target=known if index > 1 else replace(known, semantic=None))


def options(**changes: Any) -> TrainingRecipe:
    values = {
        "epochs": 3,
        "batch_size": 2,
        "learning_rate": 0.01,
        "evaluate_every": 0,
        "precision": "fp32",
        "device": "cpu",
        "log_gradient_conflict": 2,
    }
    return TrainingRecipe.model_validate({**values, **changes})


def train(model: TaskModel, out: Path, how: TrainingRecipe, *, resume: bool = False) -> None:
    quiet = Console(file=io.StringIO())
    finetune(model, Partly(4), None, how, out=out, console=quiet, workers=0, resume=resume)


@pytest.mark.parametrize(("name", "accumulation"), [("uncertainty", 2), ("dwa", 1)])
def test_weights_are_learned_logged_and_resumed_exactly(
    name: str,
    accumulation: int,
    tiny_model: Callable[[], TaskModel],
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    how = options(balancing=name, accumulation=accumulation)
    whole = tiny_model()
    train(whole, tmp_path / "whole", how)
    events = [json.loads(each) for each in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    weights = [each["weights"] for each in events if each["event"] == "step"]
    assert weights[-1].keys() == {"objects", "scene"}
    assert all(value > 0 for each in weights for value in each.values())
    assert weights[-1] != weights[0]
    with asked_to_stop_at(1):
        train(tiny_model(), tmp_path / "cut", how)
    cut = tiny_model()
    train(cut, tmp_path / "cut", how, resume=True)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, cut.state_dict()[key]), key
    kept = [load_checkpoint(tmp_path / each / "checkpoints/last")[2] for each in ("whole", "cut")]
    assert (
        kept[0]["balancing"].keys()
        == LOSS_BALANCERS.get(name)(("objects", "scene")).state_dict().keys()
    )
    for key, value in kept[0]["balancing"].items():
        assert torch.equal(value, kept[1]["balancing"][key])


def test_uncertainty_is_not_decayed_and_learns_at_the_plain_rate(
    tiny_model: Callable[[], TaskModel],
) -> None:
    learned = options(balancing="uncertainty", weight_decay=0.5)
    trainee = TrainStep(tiny_model(), learned, RunLength(1, 1, 1))
    group = trainee.optimizer.param_groups[-1]
    assert len(group["params"]) == 2
    assert group["weight_decay"] == 0
    assert group["lr"] == 0.01


def test_conflict_is_logged_where_two_heads_learn(
    tiny_model: Callable[[], TaskModel], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    train(tiny_model(), tmp_path / "asked", options())
    train(tiny_model(), tmp_path / "not", options(log_gradient_conflict=0))
    logs = [(tmp_path / each / "log.jsonl").read_text() for each in ("asked", "not")]
    events = [json.loads(each) for each in logs[0].splitlines()]
    found = [each for each in events if each["event"] == "gradients"]
    assert found
    for each in found:
        assert each["update"] % 2 == 0
        assert each["stage"] == 5
        assert -1 <= each["cosines"]["objects|scene"] <= 1
        assert all(value > 0 for value in each["norms"].values())
    assert '"gradients"' not in logs[1]
    weights = [
        load_checkpoint(tmp_path / each / "checkpoints/last")[0] for each in ("asked", "not")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_nothing_annotated_changes_no_weight(
    tiny_model: Callable[[], TaskModel], tmp_path: Path
) -> None:
    class Unknown(Shapes):
        def __getitem__(self, index: int) -> Sample:
            return replace(super().__getitem__(index), target=Target())

    how = options(balancing="uncertainty", epochs=1)
    quiet = Console(file=io.StringIO())
    model = tiny_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    finetune(model, Unknown(2), None, how, out=tmp_path / "run", console=quiet, workers=0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    state = load_checkpoint(tmp_path / "run/checkpoints/last")[2]["balancing"]
    assert all(value == 0 for value in state.values())
