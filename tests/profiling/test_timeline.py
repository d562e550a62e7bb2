"""Parts of a step: every moment in one of them, and nothing computed otherwise."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import nn

from resnet_tasks.assemble.synthetic_samples import SyntheticSamples
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import RunError
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.profiling import timeline as module
from resnet_tasks.profiling.timeline import BACKWARD, COUNTING, DATA, OTHER, Timeline, attach_probes
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.training import TrainingRecipe

CPU = torch.device("cpu")


@pytest.fixture
def clock() -> list[float]:
    """The time, to be set by the test."""
    return [0.0]


def test_every_moment_belongs_to_the_innermost_part(clock: list[float]) -> None:
    made = Timeline(CPU, lambda: clock[0])
    made.begin_step()
    clock[0] = 1.0
    with made.record_part(DATA):
        clock[0] = 3.0
    clock[0] = 3.5
    with made.record_part("forward: a"):
        clock[0] = 5.0
        with made.record_part("forward: a b"):
            clock[0] = 9.0
        clock[0] = 10.0
    clock[0] = 12.0
    made.end_step()
    assert made.steps == [{OTHER: 3.5, DATA: 2.0, "forward: a": 2.5, "forward: a b": 4.0}]


def test_what_runs_inside_the_backward_is_backward(clock: list[float]) -> None:
    """As checkpointed blocks do, which are computed again there."""
    made = Timeline(CPU, lambda: clock[0])
    made.begin_step()
    with made.record_part(BACKWARD):
        clock[0] = 1.0
        with made.record_part("forward: backbone C2"):
            clock[0] = 5.0
        clock[0] = 6.0
    made.end_step()
    assert made.steps == [{OTHER: 0.0, BACKWARD: 6.0}]


def test_parts_outside_of_a_step_count_for_none(clock: list[float]) -> None:
    made = Timeline(CPU, lambda: clock[0])
    with made.record_part("forward: a"):
        clock[0] = 2.0
    made.begin_step()
    made.end_step()
    assert made.steps == [{OTHER: 0.0}]


def rehearsal(**options: object) -> TrialTraining:
    """Two heads on a tiny backbone, always the same."""
    torch.manual_seed(0)
    backbone = ResNet("test_resnet")
    heads = {
        "objects": FasterRCNN(
            backbone.specs,
            ("a", "b"),
            {"anchor_sizes": (8, 16, 32, 64, 128), "pyramid_channels": 8, "box_head_channels": 8},
        ),
        "scene": UNet(backbone.specs, ("a", "b"), {"decoder_channels": (8, 8, 8, 8, 8)}),
    }
    samples = SyntheticSamples(
        8, channels=3, size=(64, 64), categories=2, fields=("boxes", "labels", "semantic")
    )
    recipe = TrainingRecipe(
        batch_size=2, precision="fp32", device="cpu", trackers=(), ema=0.9, **options
    )
    return TrialTraining(TaskModel(backbone, heads), samples, recipe, workers=0)


def learned(work: TrialTraining, made: Timeline | None) -> dict[str, torch.Tensor]:
    """Weights after two steps, with probes or without."""
    work.train_step.loss_module.train()
    for group in islice(work.iter_batches(), 2):
        if made is None:
            work.run_step(group, 1.0)
            continue
        with attach_probes(work.train_step, made):
            made.begin_step()
            work.run_step(group, 1.0)
            made.end_step()
    return {name: each.clone() for name, each in work.train_step.model.state_dict().items()}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_probes_change_nothing_and_leave_nothing(accumulation: int) -> None:
    plain = learned(rehearsal(accumulation=accumulation), None)
    work, made = rehearsal(accumulation=accumulation), Timeline(CPU)
    watched = learned(work, made)
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    labels = set().union(*made.steps)
    assert {"forward: backbone stem", "forward: backbone C5", "forward: normalize"} <= labels
    assert {"forward: objects fpn", "forward: objects rpn.select_proposals"} <= labels
    assert {"forward: objects roi_heads.loss", "forward: scene decoder"} <= labels
    assert {BACKWARD, module.OPTIMIZER, module.CLIPPING, module.AVERAGING} <= labels
    assert (COUNTING in labels) == (accumulation == 2)
    model = work.train_step.model
    assert not any(each._forward_pre_hooks or each._forward_hooks for each in model.modules())
    for owner in (model, *model.named_heads.values(), model.heads["objects"].rpn):
        assert not {"loss", "normalize", "proposals"} & vars(owner).keys()
    assert work.train_step.optimizer.step.__name__ == "step"
    assert "update" not in vars(work.train_step.ema)


def test_probes_are_taken_off_after_an_error() -> None:
    work, made = rehearsal(), Timeline(CPU)

    def fails(*_: object) -> None:
        raise RunError("no")

    decoder = work.train_step.model.heads["scene"].decoder
    decoder.forward = fails
    group = next(work.iter_batches())
    work.train_step.loss_module.train()
    made.begin_step()
    with pytest.raises(RunError, match="no"), attach_probes(work.train_step, made):
        work.run_step(group, 1.0)
    assert not any(each._forward_hooks for each in work.train_step.model.modules())
    made.begin_step()
    made.end_step()
    assert list(made.steps[0]) == [OTHER]


def test_checkpointed_blocks_are_seen_by_stage() -> None:
    work, made = rehearsal(), Timeline(CPU)
    work.train_step.model.backbone.gradient_checkpointing = True
    assert isinstance(work.train_step.model.backbone, nn.Module)
    learned(work, made)
    assert {"forward: backbone C2", "forward: backbone C5"} <= made.steps[0].keys()
