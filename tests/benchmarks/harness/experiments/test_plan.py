"""Plan of the experiments: complete, equal in everything except the head, with valid options."""

from __future__ import annotations

import pytest

from benchmarks.harness.experiments.plan import (
    EXPERIMENTS,
    GROUPS,
    Experiment,
    ExperimentGroup,
    PlannedRun,
    plan_run,
    select_experiments,
)
from resnet_tasks.errors import DataError
from resnet_tasks.heads.base import HEADS


def plan(
    experiment: Experiment, *, weights: str = "none", share: float = 0.5, seed: int = 0
) -> PlannedRun:
    return plan_run(
        experiment, weights=weights, weights_digest="sha256:1", epochs_share=share, seed=seed
    )


def test_the_plan_is_complete() -> None:
    detectors, decoders = (
        {"faster_rcnn", "fcos", "retinanet"},
        {"unet", "fpn", "unetplusplus", "deeplabv3plus", "pspnet", "upernet"},
    )
    assert {group.name: set(group.options) for group in GROUPS} == {
        "bccd_boxes": detectors,
        "camvid_boxes": detectors,
        "camvid_pixels": decoders,
    }
    assert len({experiment.name for experiment in EXPERIMENTS}) == 12


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_runs_of_a_group_differ_only_in_the_head(group: ExperimentGroup) -> None:
    planned = [plan(experiment) for experiment in select_experiments([group.name])]
    recipes = [run.recipe.model_dump(exclude={"heads", "name"}) for run in planned]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert len({run.digest for run in planned}) == len(planned)
    assert {run.recipe.training.epochs for run in planned} == {28 if "bccd" in group.name else 12}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_options_are_valid(experiment: Experiment) -> None:
    head = plan(experiment).recipe.heads[experiment.group.head]
    assert head.type == experiment.head_type
    # The weighting's name is replaced by measured weights before the head is built.
    without_weights = {key: v for key, v in head.options.items() if key != "class_weights"}
    options = HEADS.get(head.type).Options.model_validate(without_weights)
    if experiment.group.metrics[0] == "AP":
        values = options.model_dump()
        assert values["score_threshold"] == 0.001
        assert values["detections_per_image"] == 100
        assert values["pyramid_channels"] == 128
    else:
        assert head.options["loss"] == "cross_entropy+dice"
        assert head.options["class_weights"] == "inverse_sqrt"


def test_the_digest_depends_on_settings_and_not_on_paths() -> None:
    experiment = EXPERIMENTS[1]
    digest = plan(experiment, weights="/a/w.safetensors").digest
    assert plan(experiment, weights="/b/w.safetensors").digest == digest
    others = {
        plan(experiment, share=0.25).digest,
        plan(experiment, seed=1).digest,
        plan_run(experiment, weights="none", weights_digest="none", epochs_share=0.5).digest,
    }
    assert len(others | {digest}) == 4


def test_a_small_share_still_trains_one_epoch() -> None:
    assert plan(EXPERIMENTS[0], share=1e-6).recipe.training.epochs == 1


def test_experiments_are_selected_by_name_group_and_head() -> None:
    def select(*names: str) -> list[str]:
        return [experiment.name for experiment in select_experiments(names)]

    assert len(select()) == 12
    assert select("fcos") == ["bccd_boxes/fcos", "camvid_boxes/fcos"]
    assert select("camvid_pixels/fpn", "bccd_boxes/fcos") == [
        "bccd_boxes/fcos",
        "camvid_pixels/fpn",
    ]
    with pytest.raises(DataError, match=r"no experiment 'focs'; allowed: bccd_boxes"):
        select("focs")
