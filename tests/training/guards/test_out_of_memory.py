"""Memory that runs out: one sentence with the settings to change."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.data import Dataset

from resnet_tasks.errors import MemoryLimitError
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training import validation
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.guards.out_of_memory import (
    advise_on_evaluation_memory,
    advise_on_training_memory,
    translate_memory_errors,
)

Build = Callable[..., TaskModel]
OPTIONS = TrainingRecipe(epochs=1, batch_size=2, precision="fp32", device="cpu")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_every_way_of_running_out_is_known(error: Exception) -> None:
    with (
        pytest.raises(MemoryLimitError, match="out of memory in a test"),
        translate_memory_errors(lambda: "in a test"),
    ):
        raise error


def test_torchs_own_refusal_is_known_and_other_errors_pass() -> None:
    with pytest.raises(MemoryLimitError), translate_memory_errors(lambda: "here"):
        torch.empty(2**58)
    with pytest.raises(RuntimeError, match="shape"), translate_memory_errors(lambda: "here"):
        raise RuntimeError("shape")


def test_the_advice_keeps_the_step_as_large() -> None:
    text = advise_on_training_memory(7, 2, (352, 480))
    assert "batch size of 7 and images of 352 x 480 pixels" in text
    assert "training.batch_size=3 training.accumulation=6" in text
    assert "data.resize" in text
    assert "backbone.gradient_checkpointing=true" in text


def test_the_advice_does_not_lower_a_batch_of_one_image() -> None:
    assert advise_on_training_memory(1, 1, None) == (
        "while training with a batch size of 1; make data.resize smaller, or set "
        "backbone.gradient_checkpointing=true"
    )
    assert advise_on_evaluation_memory(1, None) == (
        "while evaluating with a batch size of 1; make data.resize smaller, or set "
        "training.precision=bf16"
    )
    assert "lower evaluation.batch_size (now 2)" in advise_on_evaluation_memory(2, None)


def test_a_step_that_does_not_fit_names_batch_and_size(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(*_: Any, **__: Any) -> Any:
        return torch.empty(2**58)

    monkeypatch.setattr(TaskModel, "forward", large)
    with pytest.raises(MemoryLimitError, match=r"batch size of 2 and images of 64 x 96 pixels"):
        finetune(
            tiny_model(), shapes, None, OPTIONS, out=tmp_path, console=Console(file=io.StringIO())
        )


def test_an_evaluation_that_does_not_fit_says_so(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(validation, "evaluate", large)
    with pytest.raises(
        MemoryLimitError, match=r"while evaluating with a batch size of 2.*evaluation\.batch_size"
    ):
        finetune(
            tiny_model(), shapes, shapes, OPTIONS, out=tmp_path, console=Console(file=io.StringIO())
        )
