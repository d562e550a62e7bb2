"""Stages that join later: when, at which rate, after a kill, and in several processes."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import ResnetTasksError, RunError
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe, UnfreezeRecipe
from resnet_tasks.run_folder.checkpoint import load_checkpoint
from resnet_tasks.training.checkpointing import CheckpointManager
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.state.unfreezing import UnfreezeSchedule
from tests.support.interrupting import killed_at
from tests.support.shapes import CLASSES, Shapes

STEPS = (UnfreezeRecipe(epoch=1, frozen_stages=3), UnfreezeRecipe(epoch=2, frozen_stages=0))
OPTIONS = TrainingRecipe(
    epochs=3,
    batch_size=1,
    precision="fp32",
    device="cpu",
    learning_rate=1e-2,
    checkpoint_minutes=1e-9,
    unfreeze=STEPS,
    evaluate_every=0,
    ema=0.5,
    layer_decay=0.5,
    warmup=0.0,
)


def model() -> TaskModel:
    torch.manual_seed(3)
    backbone = ResNet("test_resnet", weights="unloaded", frozen_stages=5)
    options = {"decoder_channels": (16, 8, 8, 8, 8)}
    return TaskModel(backbone, {"scene": UNet(backbone.specs, ("none", *CLASSES), options)})


def train(out: Path, *, resume: bool = False) -> TaskModel:
    made = model()
    console = Console(file=io.StringIO())
    finetune(made, Shapes(2, (32, 64)), None, OPTIONS, out=out, resume=resume, console=console)
    return made


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[int]:
    """Stages of which any number has changed, statistics of norms included."""
    backbone = model().backbone
    assert isinstance(backbone, ResNet)
    return {
        backbone.find_stage(name.removeprefix("backbone."))
        for name, value in before.items()
        if name.startswith("backbone.") and not torch.equal(value, after[name])
    }


def test_stages_move_from_their_epoch_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [model().state_dict()]
    save = CheckpointManager.save_last

    def keeps(self: CheckpointManager, position: TrainingProgress) -> None:
        save(self, position)
        if position.epoch and not position.batch:  # an epoch is over
            seen.append(load_checkpoint(tmp_path / "checkpoints/last")[0])

    monkeypatch.setattr(CheckpointManager, "save_last", keeps)
    train(tmp_path)
    assert len(seen) == 4
    assert [moved(a, b) for a, b in pairwise(seen)] == [
        set(),
        {4, 5},
        {1, 2, 3, 4, 5},
    ]
    # Two updates an epoch: who joined at epoch 2 has done two, the head all six.
    state = load_checkpoint(tmp_path / "checkpoints/last")[2]["optimizer"]
    assert sorted({int(each["step"]) for each in state["state"].values()}) == [2, 4, 6]
    # The averaged weights follow who joined.
    _, averaged, _ = load_checkpoint(tmp_path / "checkpoints/last")
    assert averaged is not None
    assert moved(seen[0], averaged) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("kill", [1, 2, 3, 5])
def test_a_killed_run_ends_with_the_same_weights(kill: int, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole").state_dict()

    with killed_at(kill):
        train(tmp_path / "parts")
    parts = train(tmp_path / "parts", resume=True).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_frozen_norms_stay_frozen_when_their_stage_joins() -> None:
    backbone = ResNet("test_resnet", weights="unloaded", frozen_stages=5, norm="frozen")
    backbone.freeze_stages(1)
    norms = [each for each in backbone.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    backbone.train()
    assert not any(norm.training for norm in norms)
    frozen = {backbone.find_stage(n) for n, p in backbone.named_parameters() if p.requires_grad}
    assert frozen == {2, 3, 4, 5}
    with pytest.raises(ResnetTasksError, match="frozen_stages is 6; allowed: 0"):
        backbone.freeze_stages(6)


def test_a_plan_is_a_function_of_the_epoch() -> None:
    backbone = model().backbone
    plan = UnfreezeSchedule(backbone, STEPS)
    assert [plan.get_frozen_stages(epoch) for epoch in range(4)] == [5, 3, 0, 0]
    assert [plan.enter_epoch(epoch) for epoch in (0, 1, 1, 2)] == [None, 3, None, 0]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [(2, 1), (2, 0)],
            r"\{epoch: 2, frozen_stages: 0\} follows \{epoch: 2, frozen_stages: 1\}",
        ),
        ([(1, 1), (2, 1)], "epochs must rise and frozen_stages fall"),
        ([(30, 0)], "is never reached in 30 epochs"),
    ],
)
def test_plans_that_make_no_sense_are_refused(steps: list[tuple[int, int]], message: str) -> None:
    entries = tuple(UnfreezeRecipe(epoch=a, frozen_stages=b) for a, b in steps)
    with pytest.raises(ValidationError, match=message):
        TrainingRecipe(epochs=30, unfreeze=entries)


def test_backbones_that_cannot_be_freed_by_stages_are_refused() -> None:
    with pytest.raises(RunError, match=r"backbone \(Linear\) has no method `freeze_stages`"):
        UnfreezeSchedule(nn.Linear(1, 1), STEPS)
    backbone = ResNet("test_resnet", weights="unloaded", frozen_stages=3)
    with pytest.raises(RunError, match="frozen stages to 3, but the backbone starts with 3"):
        UnfreezeSchedule(backbone, STEPS)
