"""A model in training: what a step changes, what is kept of it, what is judged."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import islice

import pytest
import torch
from torch.utils.data import Dataset

from resnet_tasks.model import TaskModel
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training.state.train_state import TrainState

Build = Callable[..., TaskModel]
OPTIONS = TrainingRecipe(batch_size=2, precision="fp32", device="cpu", balancing="uncertainty")


def weights(model: TaskModel) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_averaged_weights_are_judged_and_kept_at_the_end(
    tiny_model: Build, shapes: Dataset[Sample]
) -> None:
    work = TrialTraining(tiny_model(), shapes, OPTIONS.model_copy(update={"ema": 0.9}))
    trainee = work.train_state
    assert trainee.evaluation_model is trainee.averaged_model
    for group in islice(work.iter_batches(), 3):  # the first two are copied: the average warms up
        work.run_step(group, 1.0)
    averaged = weights(trainee.evaluation_model)
    assert not are_equal(averaged, weights(trainee.plain_model))
    trainee.finish()
    assert are_equal(averaged, weights(trainee.plain_model))


def test_without_averaging_the_model_itself_is_judged(tiny_model: Build) -> None:
    trainee = TrainState(tiny_model(), OPTIONS)
    assert trainee.averaged_model is None
    assert trainee.evaluation_model is trainee.plain_model


def test_what_is_kept_goes_on_to_the_bit(tiny_model: Build, shapes: Dataset[Sample]) -> None:
    first, second = (TrialTraining(tiny_model(), shapes, OPTIONS) for _ in range(2))
    one, other = islice(first.iter_batches(), 2)
    first.run_step(one, 1.0)
    second.train_state.plain_model.load_state_dict(weights(first.train_state.plain_model))
    second.train_state.load_state_dict(deepcopy(first.train_state.state_dict()))
    second.progress.updates = 1
    assert first.run_step(other, 1.0) == second.run_step(other, 1.0)
    assert are_equal(
        weights(first.train_state.plain_model), weights(second.train_state.plain_model)
    )
    kept = [each.train_state.balancer.state_dict() for each in (first, second)]
    assert are_equal(*kept)
    assert all(value != 0 for value in kept[0].values())


@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_norm_is_that_before_clipping(
    limit: float | None, tiny_model: Build, shapes: Dataset[Sample]
) -> None:
    trainee = TrainState(tiny_model(), OPTIONS.model_copy(update={"clip_norm": limit}))
    trainee.prepare_step(1.0)
    (parameter, *_) = trainee.plain_model.parameters()
    parameter.grad = torch.full_like(parameter, 2.0)
    expected = 2.0 * parameter.numel() ** 0.5
    assert trainee.clip_gradients().item() == pytest.approx(expected)
    kept = expected if limit is None else limit
    assert parameter.grad.norm().item() == pytest.approx(kept, rel=1e-4)


def test_rates_begin_at_their_base_every_time(tiny_model: Build) -> None:
    trainee = TrainState(tiny_model(), OPTIONS)
    for factor in (0.5, 0.1):
        trainee.prepare_step(factor)
        rates = {group["lr"] for group in trainee.optimizer.param_groups}
        assert rates == {OPTIONS.learning_rate * factor}
