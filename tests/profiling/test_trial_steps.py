"""Steps of which nothing is kept, and which are those of a run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from resnet_tasks.errors import MemoryLimitError, NonFiniteLossError
from resnet_tasks.model import TaskModel
from resnet_tasks.profiling.dry_run import time_steps
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training.finetune import finetune
from tests.support.consoles import quiet

Build = Callable[..., TaskModel]
OPTIONS = TrainingRecipe(epochs=2, batch_size=2, precision="fp32", device="cpu", evaluate_every=0)


def test_its_steps_are_those_of_a_run(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    trained = tiny_model()
    finetune(trained, shapes, None, OPTIONS, out=tmp_path, console=quiet())
    work = TrialTraining(tiny_model(), shapes, OPTIONS)
    with work.enter_training_mode():
        for group in islice(work.iter_batches(), 4):
            work.run_step(group)
    assert (work.progress.updates, work.progress.epoch) == (4, 1)
    assert work.image_size == (64, 96)
    rehearsed = work.train_step.model.state_dict()
    assert all(torch.equal(each, rehearsed[name]) for name, each in trained.state_dict().items())


def test_nothing_is_written_of_a_step_that_is_not_finite(
    tiny_model: Build, broken: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work = TrialTraining(tiny_model(), broken, OPTIONS.model_copy(update={"batch_size": 4}))
    with work.enter_training_mode(), pytest.raises(NonFiniteLossError) as caught:
        work.run_step(next(work.iter_batches()))
    assert "resnet-tasks replay" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_does_not_suffice_is_told(
    tiny_model: Build, shapes: Dataset[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = TrialTraining(tiny_model(), shapes, OPTIONS)
    monkeypatch.setattr(TaskModel, "forward", lambda *_, **__: torch.empty(2**58))
    with (
        pytest.raises(MemoryLimitError, match=r"batch size of 2 and images of 64 x 96"),
        work.enter_training_mode(),
    ):
        work.run_step(next(work.iter_batches()))


def test_no_more_steps_are_timed_than_an_epoch_has(
    tiny_model: Build, shapes: Dataset[Sample]
) -> None:
    assert len(time_steps(TrialTraining(tiny_model(), shapes, OPTIONS), 1)) == 1
    whole = OPTIONS.model_copy(update={"accumulation": 2})
    assert len(time_steps(TrialTraining(tiny_model(), shapes, whole), 2)) == 1
