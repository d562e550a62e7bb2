"""Evaluators of every head, and the metric that chooses the best checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_tasks.errors import RecipeError
from resnet_tasks.evaluation.evaluators import (
    build_evaluators,
    choose_best_metric,
    compute_best_metric,
    select_extra,
)
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator
from resnet_tasks.evaluation.protocols.kitti import KittiEvaluator
from resnet_tasks.evaluation.protocols.surface_distance import SurfaceEvaluator
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.testing.random_batches import resnet_specs

HEADS: dict[str, Any] = {
    "objects": FasterRCNN(resnet_specs(8), ("Car", "bus"), {"pyramid_channels": 8}),
    "scene": UNet(resnet_specs(8), ("road", "sky")),
}


def test_best_metric_is_known_before_anything_is_evaluated() -> None:
    heads = {"objects": FasterRCNN(resnet_specs(8), ("a",), {"pyramid_channels": 8})}
    assert choose_best_metric(heads, None) == "objects/AP"
    assert choose_best_metric(heads, "objects/AP75") == "objects/AP75"
    with pytest.raises(RecipeError, match="did you mean 'objects/AP_small'"):
        choose_best_metric(heads, "objects/AP_smal")
    with pytest.raises(RecipeError, match="the heads are objects"):
        choose_best_metric(heads, "object/AP")


def test_heads_get_theirs_in_order_with_options() -> None:
    extra: dict[str, Any] = {
        "objects": {"froc": {"hit": "center"}, "kitti": None},
        "scene": {"surface": {"tolerance": 3}},
    }
    made = build_evaluators(HEADS, extra=extra)
    own, froc, kitti = made["objects"]
    assert type(own).__name__ == "DetectionEvaluator"
    assert isinstance(froc, FrocEvaluator)
    assert froc.options.hit == "center"
    assert isinstance(kitti, KittiEvaluator)
    assert isinstance(made["scene"][1], SurfaceEvaluator)
    assert [len(each) for each in build_evaluators(HEADS).values()] == [1, 1]


def test_best_may_be_theirs() -> None:
    extra: dict[str, Any] = {"objects": {"froc": None, "kitti": None}}
    assert choose_best_metric(HEADS, "objects/CPM", extra) == "objects/CPM"
    assert choose_best_metric(HEADS, None, extra) == "objects/AP"
    with pytest.raises(RecipeError, match=r"evaluation\.best is 'objects/CPM'"):
        choose_best_metric(HEADS, "objects/CPM")
    # While training only what chooses the checkpoint is counted.
    assert select_extra(HEADS, "objects/AP", extra) == {}
    assert select_extra(HEADS, "objects/KITTI_AP_easy", extra) == {"objects": {"kitti": None}}
    assert select_extra(HEADS, "scene/mIoU", extra) == {}
    assert select_extra(HEADS, "", extra) == {}


def test_best_may_be_a_mean() -> None:
    extra: dict[str, Any] = {"objects": {"froc": None}, "scene": {"surface": None}}
    mean = "mean(objects/AP, scene/mIoU)"
    assert choose_best_metric(HEADS, "mean( objects/AP,scene/mIoU )") == mean
    assert choose_best_metric(HEADS, "mean(scene/Dice)") == "scene/Dice"
    assert select_extra(HEADS, mean, extra) == {}
    assert select_extra(HEADS, "mean(objects/CPM, scene/NSD)", extra) == extra
    metrics = {"objects/AP": Metric(0.25), "scene/mIoU": Metric(0.75), "objects/AP50": Metric(None)}
    assert compute_best_metric(mean, metrics) == Metric(0.5)
    assert compute_best_metric("scene/mIoU", metrics) == Metric(0.75)
    assert compute_best_metric("mean(objects/AP50, scene/mIoU)", metrics).value is None
    assert compute_best_metric("mean(objects/AP, scene/Dice)", metrics).value is None


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ("mean()", r"'mean\(\)', which lacks a metric; write HEAD/METRIC or mean\(HEAD/METRIC"),
        ("mean(objects/AP, )", "which lacks a metric"),
        ("mean(objects/AP, objects/AP)", "which names objects/AP twice; name each metric once"),
        ("mean(objects/AP, scene/mIU)", "the metrics are .* did you mean 'scene/mIoU'"),
        ("mean(objects/AP, scenes/mIoU)", "the heads are objects, scene; write HEAD/METRIC or"),
        (
            "mean(objects/AP, scene/HD95)",
            "objects/AP and scene/HD95 is not defined, because objects/AP is a fraction .higher is",
        ),
    ],
)
def test_means_that_cannot_select_are_refused(best: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        choose_best_metric(HEADS, best, {"scene": {"surface": None}})


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            {"object": {"froc": None}},
            "evaluation.extra.object: there is no head 'object'; the heads are objects, scene",
        ),
        ({"objects": {"frok": None}}, "unknown evaluator 'frok'; .* did you mean 'froc'"),
        ({"scene": {"froc": None}}, "'froc' evaluates detection, .* evaluators are: surface"),
        ({"objects": {"froc": {"hits": "iou"}}}, "hits is not an option; did you mean 'hit'"),
        (
            {"objects": {"froc": {"iou": 2}}},
            r"iou: got 2; allowed is a number above 0 and at most 1 \(Minimum overlap",
        ),
        ({"objects": {"kitti": {"heights": [40, 25]}}}, "heights: .*edges must increase"),
        ({"objects": {"kitti": {"iou": {"cat": 0.5}}}}, "iou names 'cat', .* are Car, bus"),
    ],
)
def test_mistakes_are_told_with_their_place(extra: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build_evaluators(HEADS, extra=extra)


def test_all_mistakes_come_together() -> None:
    extra: dict[str, Any] = {"object": {}, "objects": {"frok": None, "kitty": None}}
    with pytest.raises(RecipeError) as caught:
        choose_best_metric(HEADS, None, extra)
    assert len(str(caught.value).splitlines()) == 3
