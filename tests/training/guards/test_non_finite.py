"""Steps that are not finite: who is told of what, and how many may be left out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch.utils.data import Dataset

from resnet_tasks.errors import NonFiniteLossError
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.processes import SINGLE_PROCESS
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.guards.non_finite import NonFiniteStepPolicy
from resnet_tasks.training.guards.recorded_step import RecordedStep
from resnet_tasks.training.logging.run_log import RunLog
from resnet_tasks.training.state.progress import RunLength, TrainingProgress

Build = Callable[..., TaskModel]
QUIET: dict[str, Any] = {"console": Console(file=io.StringIO())}
OPTIONS = TrainingRecipe(
    epochs=2, batch_size=2, learning_rate=1e-3, precision="fp32", device="cpu", warmup=0.1, ema=0.9
)


def test_non_finite_loss_names_images_and_losses(
    tiny_model: Build, broken: Dataset[Sample], tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        finetune(tiny_model(), broken, None, OPTIONS, out=tmp_path, **QUIET)
    message = str(caught.value)
    assert "2 (2.png)" in message
    assert "scene/cross_entropy" in message
    assert "learning_rate" in message


class Steps:
    """What becomes of the steps of a run of `updates` that are not finite."""

    def __init__(self, model: TaskModel, updates: int, policy: str) -> None:
        options = OPTIONS.model_copy(update={"non_finite": policy})
        length = RunLength(updates, updates, updates)
        log = RunLog.create_silent()
        self.position = TrainingProgress()
        self._model = model
        self._policy = NonFiniteStepPolicy(
            options, length, SINGLE_PROCESS, run_log=log, folder=None
        )

    def skip(self, update: int, trouble: str = "no number") -> None:
        self.position.updates = update
        record = RecordedStep(update, 1, "fp32", False, 1)
        error = NonFiniteLossError(trouble)
        self._policy.skip_step(error, self.position, record, self._model, [])


def test_one_in_a_hundred_may_be_left_out(tiny_model: Build) -> None:
    steps = Steps(tiny_model(), 500, "skip")
    for update in range(0, 50, 10):
        steps.position.skipped_in_row = 0
        steps.skip(update)
    assert steps.position.skipped == 5
    with pytest.raises(NonFiniteLossError, match=r"no number; .*; 6 of 61 steps .* at most 5 may"):
        steps.skip(60)


def test_ten_in_a_row_end_a_run(tiny_model: Build) -> None:
    steps = Steps(tiny_model(), 5000, "skip")
    for update in range(9):
        steps.skip(update)
    with pytest.raises(NonFiniteLossError, match="10 in a row; at most 50 may"):
        steps.skip(9)


def test_the_default_is_to_stop_at_the_first(tiny_model: Build) -> None:
    steps = Steps(tiny_model(), 5000, "stop")
    with pytest.raises(
        NonFiniteLossError, match=r"no number; .*; set training\.non_finite=skip to skip"
    ):
        steps.skip(0)
    assert steps.position == TrainingProgress()


def test_the_message_names_the_update_and_all_troubles(tiny_model: Build) -> None:
    steps = Steps(tiny_model(), 5000, "stop")
    steps.position.epoch = 2
    with pytest.raises(NonFiniteLossError, match=r"at update 7 \(epoch 3\); here; there; lower"):
        steps.skip(7, "here; there")
