"""Sentences on what to change: each comes when its condition was measured, and not otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resnet_tasks.profiling.data_loading_cost import ReadingCost
from resnet_tasks.profiling.operator_profile import OperatorStats
from resnet_tasks.profiling.step_advice import suggest_changes
from resnet_tasks.profiling.step_profile import (
    MemoryUsage,
    ProfileConditions,
    StepPart,
    StepProfile,
)
from resnet_tasks.profiling.timeline import AVERAGING, BACKWARD, COUNTING, DATA, OPTIMIZER, OTHER
from resnet_tasks.recipe.schema.recipe import Recipe

GIB = 2**30
CONDITIONS = ProfileConditions(
    recipe="mine",
    is_drawn=False,
    device="cuda",
    machine="a GPU",
    precision="bf16",
    best_precision="bf16",
    threads=1,
    cores=8,
    workers=4,
    batch_size=8,
    accumulation=1,
    image_size=(352, 480),
    parameters=1,
    trained=1,
    steps=3,
)
SHARES = {"forward: backbone C3": 0.3, BACKWARD: 0.6, OTHER: 0.1}


def profile(shares: dict[str, float] | None = None, **changes: Any) -> StepProfile:
    """A step of a second in which nothing stands out, but for the changes."""
    conditions = {k: changes.pop(k) for k in vars(CONDITIONS) if k in changes}
    made = StepProfile(
        conditions=replace(CONDITIONS, **conditions),
        seconds=1.0,
        probed_seconds=1.0,
        parts=tuple(StepPart(name, share, share) for name, share in (shares or SHARES).items()),
        operators=(OperatorStats("aten::convolution", "bf16", BACKWARD, 1, 1.0, 1.0),),
        reading=ReadingCost(8, 0.1, 0.06, 0.02),
        memory=MemoryUsage(4 * GIB, GIB, 8 * GIB, 16 * GIB),
    )
    return replace(made, **changes)


def recipe(**changes: Any) -> Recipe:
    plain = {
        "data": {
            "root": "x",
            "train": [{"annotations": "a.json"}],
            "val": [{"annotations": "b.json"}],
        },
        "heads": {"objects": {"type": "faster_rcnn"}},
    }
    return Recipe.model_validate({**plain, **changes})


def said(found: StepProfile, **changes: Any) -> str:
    (sentence,) = suggest_changes(found, recipe(**changes))
    return sentence


def test_nothing_is_said_where_nothing_stands_out() -> None:
    assert suggest_changes(profile(), recipe()) == []


WAITING = {DATA: 0.5, "forward: backbone C3": 0.1, BACKWARD: 0.4}


def test_waiting_for_data_names_the_workers_that_keep_up() -> None:
    """8 images of 0.1 s against 0.5 s of work: 1.6 cores, and a fifth more."""
    assert said(profile(WAITING, workers=1)) == (
        "waiting for data takes 50% of the step: set data.workers=2 (now 1)"
    )
    on_cpu = said(profile(WAITING, workers=0, device="cpu", cores=2, threads=2))
    assert on_cpu.endswith(
        "set data.workers=1 (now 0) (on a CPU with OMP_NUM_THREADS=1, which leaves cores for the "
        "workers)"
    )


def test_where_workers_do_not_help_the_expensive_part_is_named() -> None:
    assert "60% of it is decoding; store smaller images" in said(profile(WAITING))
    augmented = profile(WAITING, reading=ReadingCost(8, 0.1, 0.02, 0.07))
    assert "70% of it is augmentation; remove expensive steps from augment" in said(augmented)
    even = profile(WAITING, reading=ReadingCost(8, 0.1, 0.04, 0.04))
    assert "an image takes 100.0 ms of a core; make data.resize smaller" in said(even)


def test_images_that_will_come_from_memory_need_no_change() -> None:
    kept = ReadingCost(8, 0.1, 0.06, 0.001, from_memory=0.002)
    told = said(profile(WAITING, workers=0, reading=kept))
    assert "only until each image has been read once" in told
    assert "about 3%; nothing needs to change" in told  # 16 ms beside 500
    slow = replace(kept, from_memory=0.02)
    assert "set data.workers=2" in said(profile(WAITING, workers=0, reading=slow))


def test_large_files_are_named() -> None:
    reading = ReadingCost(8, 0.1, 0.06, 0.02, stored_size=(1440, 1920))
    plain = recipe().data.model_dump()
    found = suggest_changes(
        profile(WAITING, reading=reading),
        recipe(data={**plain, "resize": {"height": 360, "width": 480}}),
    )
    assert any("stored at 1920 x 1440 and reduced to 480 x 360" in each for each in found)


def test_precision() -> None:
    told = said(profile(precision="fp32"))
    assert "the precision is fp32" in told
    assert "training.precision=bf16" in told
    assert suggest_changes(profile(precision="fp32", best_precision="fp32"), recipe()) == []


def test_fp32_in_mixed_precision() -> None:
    slow = OperatorStats("aten::mm", "fp32", "forward: objects x", 1, 0.2, 0.2)
    told = said(profile(operators=(slow,)))
    assert told.startswith(
        "20% of the operators' time is spent in fp32 although training.precision is bf16: aten::mm "
        "(forward: objects x, 20%)"
    )


EARLY = {
    "forward: backbone stem": 0.1,
    "forward: backbone C2": 0.1,
    "forward: x": 0.2,
    BACKWARD: 0.6,
}


def test_frozen_stages() -> None:
    assert (
        "backbone.frozen_stages=2 (now 0) their backward pass is not needed, which saves about "
        "30%" in said(profile(EARLY))
    )
    assert suggest_changes(profile(EARLY), recipe(backbone={"weights": "none"})) == []
    assert suggest_changes(profile(EARLY), recipe(backbone={"frozen_stages": 2})) == []


def test_batch_norms() -> None:
    norms = profile(
        operators=(
            OperatorStats("aten::native_batch_norm", "bf16", "forward: x", 1, 0.1, 0.1),
            OperatorStats("aten::native_batch_norm_backward", "bf16", BACKWARD, 1, 0.1, 0.1),
        )
    )
    assert "batch norms take 20% of the operators' time: backbone.norm=frozen" in said(norms)
    assert suggest_changes(norms, recipe(backbone={"norm": "frozen"})) == []


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("roi_heads", "heads.objects.options.roi_batch_size=256 (now 512 proposals per image)"),
        ("rpn.proposals", "heads.objects.options.rpn_pre_nms=[1000,1000] (now [2000, 1000])"),
    ],
)
def test_stages_of_a_detector(part: str, told: str) -> None:
    shares = {f"forward: objects {part}": 0.2, "forward: x": 0.2, BACKWARD: 0.6}
    assert told in said(profile(shares))
    assert suggest_changes(profile(shares), recipe(heads={"objects": {"type": "unet"}})) == []


def test_accumulation_and_updates() -> None:
    counts = {COUNTING: 0.25, "forward: x": 0.25, BACKWARD: 0.5}
    told = said(profile(counts, accumulation=4))
    assert "25% of the step" in told
    assert "training.batch_size=32 training.accumulation=1" in told
    update = {OPTIMIZER: 0.1, AVERAGING: 0.1, "forward: x": 0.3, BACKWARD: 0.5}
    told = said(profile(update))
    assert "take 20% of the step" in told
    assert "training.batch_size=16 (now 8)" in told
    assert told.endswith("training.ema=0 saves 10%")


def test_memory() -> None:
    full = profile(memory=MemoryUsage(4 * GIB, GIB, 15 * GIB, 16 * GIB))
    assert "94% of the memory was used at the peak: lower training.batch_size (to 4" in said(full)
    empty = profile(memory=MemoryUsage(4 * GIB, GIB, 4 * GIB, 16 * GIB))
    assert "only 25% of the GPU's memory is used" in said(empty)
    both = suggest_changes(empty, recipe(backbone={"gradient_checkpointing": True}))
    assert any("takes a second forward pass of the stages" in each for each in both)


def test_idle_cores() -> None:
    told = said(profile(device="cpu", threads=2, workers=1, cores=4))
    assert told == "torch uses 2 of 4 cores: start with OMP_NUM_THREADS=3"
    assert suggest_changes(profile(device="cpu", threads=4, cores=4), recipe()) == []
