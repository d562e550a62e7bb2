"""Going on from the last checkpoint: to the bit, and under the same settings only."""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from resnet_tasks.errors import RunError
from resnet_tasks.model import TaskModel
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.checkpoint import load_checkpoint
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training.checkpointing import (
    dump_fixed_settings,
    dump_step_state,
    load_step_state,
)
from resnet_tasks.training.finetune import finetune
from tests.support.interrupting import killed_at
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


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    finetune(tiny_model(), shapes, shapes, OPTIONS, out=tmp_path / "whole", **QUIET)

    # A checkpoint after every step, then death in the middle of the second epoch.
    eager = OPTIONS.model_copy(update={"checkpoint_minutes": 1e-9})
    with killed_at(3):
        finetune(tiny_model(), shapes, shapes, eager, out=tmp_path / "parts", **QUIET)
    position = load_checkpoint(tmp_path / "parts/checkpoints/last")[2]["position"]
    assert (position["epoch"], position["batch"], position["updates"]) == (1, 1, 3)
    finetune(tiny_model(), shapes, shapes, OPTIONS, out=tmp_path / "parts", resume=True, **QUIET)

    whole, whole_ema, _ = load_checkpoint(tmp_path / "whole/checkpoints/last")
    parts, parts_ema, _ = load_checkpoint(tmp_path / "parts/checkpoints/last")
    assert whole_ema is not None
    assert parts_ema is not None
    for one, other in ((whole, parts), (whole_ema, parts_ema)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(whole[name], whole_ema[name]) for name in whole)


@pytest.mark.parametrize("is_named", [True, False])
def test_a_run_does_not_resume_without_its_averaged_weights(
    is_named: bool, tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    """Whether or not the checkpoint names them, as those of earlier versions do not."""
    options = one_epoch(tiny_model(), shapes, tmp_path)
    last = tmp_path / "checkpoints" / "last"
    (last / "ema.safetensors").unlink()
    if not is_named:
        save_file(load_file(last / "model.safetensors"), last / "model.safetensors")
    with pytest.raises(RunError, match=r"last lacks ema\.safetensors, the averaged weights that"):
        finetune(tiny_model(), shapes, None, options, out=tmp_path, resume=True, **QUIET)


def one_epoch(model: TaskModel, shapes: Dataset[Sample], out: Path) -> TrainingRecipe:
    """Finishes a run of one epoch; its options."""
    once = OPTIONS.model_copy(update={"epochs": 1})
    finetune(model, shapes, None, once, out=out, **QUIET)
    return once


def test_another_number_of_threads_is_told(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    once = one_epoch(tiny_model(), shapes, tmp_path)
    file = tmp_path / "checkpoints/last/state.pt"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "threads": 77}, file)
    console = Console(file=io.StringIO(), width=300)
    finetune(tiny_model(), shapes, None, once, out=tmp_path, resume=True, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "note: the run was started with 77 threads" in said


def test_resume_with_other_settings_names_them(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    once = one_epoch(tiny_model(), shapes, tmp_path)
    other = once.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(RunError, match=r"training\.learning_rate was 0\.001, now 0\.5"):
        finetune(tiny_model(), shapes, None, other, out=tmp_path, resume=True, **QUIET)


def test_an_epoch_of_another_length_is_refused(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    once = one_epoch(tiny_model(), shapes, tmp_path)
    with pytest.raises(RunError, match="with 2 batches per epoch, but now there are 3"):
        finetune(tiny_model(), Shapes(5), None, once, out=tmp_path, resume=True, **QUIET)


def test_a_state_that_lacks_something_is_named(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    once = one_epoch(tiny_model(), shapes, tmp_path)
    file = tmp_path / "checkpoints/last/state.pt"
    state = torch.load(file, weights_only=True)
    torch.save({key: state[key] for key in state if key not in ("scaler", "position")}, file)
    with pytest.raises(
        RunError, match=r"state\.pt is damaged \(missing key position\); start a new run"
    ):
        finetune(tiny_model(), shapes, None, once, out=tmp_path, resume=True, **QUIET)


def test_settings_that_decide_no_weight_may_change() -> None:
    free = {
        "checkpoint_minutes": 3.0,
        "device": "cuda",
        "deterministic": False,
        "trackers": (),
        "log_gradient_conflict": 5,
        "evaluate_every": 7,
    }
    kept = dump_fixed_settings(OPTIONS)
    assert dump_fixed_settings(OPTIONS.model_copy(update=free)) == kept
    # With patience, evaluations decide when the run ends.
    patient = OPTIONS.model_copy(update={"patience": 2})
    assert dump_fixed_settings(patient)["evaluate_every"] == 1
    every = set(TrainingRecipe.model_fields)
    assert every - kept.keys() == free.keys()


def test_what_is_kept_goes_on_to_the_bit(tiny_model: Build, shapes: Dataset[Sample]) -> None:
    options = OPTIONS.model_copy(update={"balancing": "uncertainty", "ema": 0.0})
    first, second = (TrialTraining(tiny_model(), shapes, options) for _ in range(2))
    one, other = islice(first.iter_batches(), 2)
    first.run_step(one, 1.0)
    second.train_step.model.load_state_dict(weights(first.train_step.model))
    load_step_state(second.train_step, deepcopy(dump_step_state(first.train_step)))
    second.progress.updates = 1
    assert first.run_step(other, 1.0) == second.run_step(other, 1.0)
    assert are_equal(weights(first.train_step.model), weights(second.train_step.model))
    kept = [each.train_step.balancer.state_dict() for each in (first, second)]
    assert are_equal(*kept)
    assert all(value != 0 for value in kept[0].values())
