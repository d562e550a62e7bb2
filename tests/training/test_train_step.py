"""One optimizer step: what it learns from, what it is a function of, changes and refuses."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.data import Dataset

from resnet_tasks.errors import RunError
from resnet_tasks.model import TaskModel
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.targets import Target
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.state.progress import RunLength
from resnet_tasks.training.train_step import TrainStep
from tests.support.shapes import Shapes

Build = Callable[..., TaskModel]
QUIET: dict[str, Any] = {"console": Console(file=io.StringIO())}
OPTIONS = TrainingRecipe(
    epochs=2, batch_size=2, learning_rate=1e-3, precision="fp32", device="cpu", warmup=0.1, ema=0.9
)


def weights(model: TaskModel) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_accumulated_batches_equal_one_large_batch(
    tiny_model: Build, shapes: Dataset[Sample]
) -> None:
    """Batch norms in evaluation mode, so that images do not meet in the statistics."""
    gradients = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        model = tiny_model()
        options = OPTIONS.model_copy(
            update={
                "batch_size": batch_size,
                "accumulation": accumulation,
                "epochs": 1,
                "ema": 0.0,
                "clip_norm": None,
            }
        )
        work = TrialTraining(model, shapes, options)
        model.eval()
        work.run_step(next(work.iter_batches()))
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    one, many = gradients
    assert one.keys() == many.keys()
    for name, gradient in one.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert ((gradient - many[name]).abs().max() / scale) < 1e-3, name


def test_a_step_tells_what_it_saw(tiny_model: Build, shapes: Dataset[Sample]) -> None:
    work = TrialTraining(tiny_model(), shapes, OPTIONS)
    assert work.train_step.image_size is None
    assert "pixels" not in work.train_step.advise_on_memory()
    losses = work.run_step(next(work.iter_batches()))
    assert work.train_step.image_size == (64, 96)
    assert "batch size of 2 and images of 64 x 96 pixels" in work.train_step.advise_on_memory()
    assert losses.heads.keys() == {"objects", "scene"}
    assert {name.split("/")[0] for name in losses.terms} == {"objects", "scene"}
    assert losses.total == pytest.approx(sum(losses.terms.values()))
    assert all(value > 0 for value in losses.terms.values())


def test_a_step_is_a_function_of_its_number_and_epoch(tiny_model: Build) -> None:
    """Whatever random numbers were drawn before."""
    made = []
    for draws, epoch in ((0, 0), (5, 0), (0, 1)):
        work = TrialTraining(tiny_model(), Shapes(1), OPTIONS)
        (group,) = work.batches.iter_steps(epoch)  # the same image in every epoch
        work.progress.epoch = epoch
        torch.rand(draws)
        work.run_step(group.batches)
        made.append(work.train_step.model.state_dict())
    first, again, later = made
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], later[name]) for name in first)


def test_images_that_nobody_annotated_teach_nothing(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    """Not even weight decay moves the weights; boxes alone leave the other head as it was."""

    class Unlabeled(Dataset[Sample]):
        def __init__(self, *, boxes: bool) -> None:
            self.boxes = boxes

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Sample:
            sample = shapes[index]
            kept = replace(sample.target, semantic=None) if self.boxes else Target()
            return replace(sample, target=kept)

    for boxes in (False, True):
        model = tiny_model()
        before = {name: value.clone() for name, value in model.named_parameters()}
        folder = tmp_path / str(boxes)
        finetune(model, Unlabeled(boxes=boxes), None, OPTIONS, out=folder, **QUIET)
        moved = {
            name for name, value in model.named_parameters() if not torch.equal(value, before[name])
        }
        assert not any(name.startswith("heads.scene") for name in moved)
        assert any(name.startswith("heads.objects") for name in moved) == boxes


def test_a_single_value_per_channel_is_explained(tiny_model: Build, tmp_path: Path) -> None:
    class Small(Dataset[Sample]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Sample:
            target = Target(
                boxes=torch.tensor([[4.0, 4.0, 20.0, 20.0]]),
                labels=torch.tensor([0]),
                semantic=torch.zeros(32, 32, dtype=torch.int64),
            )
            return Sample(torch.rand(3, 32, 32), Geometry((32, 32), (32, 32)), index, "", target)

    options = OPTIONS.model_copy(update={"batch_size": 1})
    with pytest.raises(RunError, match=r"backbone\.norm=group"):
        finetune(tiny_model(), Small(), None, options, out=tmp_path, **QUIET)


def test_averaged_weights_are_judged_and_kept_at_the_end(
    tiny_model: Build, shapes: Dataset[Sample]
) -> None:
    work = TrialTraining(tiny_model(), shapes, OPTIONS)
    trainee = work.train_step
    assert trainee.evaluation_model is trainee.averaged_model
    for group in islice(work.iter_batches(), 3):  # the first two are copied: the average warms up
        work.run_step(group, 1.0)
    averaged = weights(trainee.evaluation_model)
    assert not are_equal(averaged, weights(trainee.model))
    trainee.finish()
    assert are_equal(averaged, weights(trainee.model))


def test_without_averaging_the_model_itself_is_judged(tiny_model: Build) -> None:
    trainee = TrainStep(tiny_model(), OPTIONS.model_copy(update={"ema": 0.0}), RunLength(1, 1, 1))
    assert trainee.averaged_model is None
    assert trainee.evaluation_model is trainee.model


@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_norm_is_that_before_clipping(limit: float | None, tiny_model: Build) -> None:
    options = OPTIONS.model_copy(update={"clip_norm": limit})
    trainee = TrainStep(tiny_model(), options, RunLength(1, 1, 1))
    (parameter, *_) = trainee.model.parameters()
    parameter.grad = torch.full_like(parameter, 2.0)
    expected = 2.0 * parameter.numel() ** 0.5
    assert trainee.clip_gradients().item() == pytest.approx(expected)
    kept = expected if limit is None else limit
    assert parameter.grad.norm().item() == pytest.approx(kept, rel=1e-4)


def test_rates_begin_at_their_base_every_time(tiny_model: Build, shapes: Dataset[Sample]) -> None:
    work = TrialTraining(tiny_model(), shapes, OPTIONS)
    for factor, group in zip((0.5, 0.1), work.iter_batches(), strict=False):
        work.run_step(group, factor)
        rates = {group["lr"] for group in work.train_step.optimizer.param_groups}
        assert rates == {OPTIONS.learning_rate * factor}
