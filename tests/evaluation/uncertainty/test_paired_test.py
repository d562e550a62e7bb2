"""Differences of two evaluations: the same draws for both, and honest about chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator, FrocOptions
from resnet_tasks.evaluation.protocols.kitti import KittiEvaluator, KittiOptions
from resnet_tasks.evaluation.uncertainty.bootstrap import (
    Bootstrap,
    Resampling,
    ResamplingUnits,
    resample_heads,
)
from resnet_tasks.evaluation.uncertainty.paired_test import compare_evaluations, two_sided_p
from resnet_tasks.structures.evaluation import Evaluator, Metric

Side = tuple[dict[str, Metric], Resampling]


def side(
    values: NDArray[np.float64], *, head: str = "objects", digest: str = "x", seed: int = 0
) -> Side:
    """An evaluation whose one metric is the mean of a value per image."""
    units = ResamplingUnits.from_image_ids(range(len(values)))
    (counts,) = units.sample_counts(Bootstrap(1000, seed))
    column = counts @ values / counts.sum(axis=1)
    metrics = {f"{head}/AP": Metric(float(values.mean()), {"a": float(values.mean())})}
    made = {f"{head}/AP": column, f"{head}/AP/a": column}
    bootstrap = Bootstrap(1000, seed)
    return metrics, Resampling(bootstrap, "images", len(values), {head: digest}, made)


def test_a_small_steady_gain_shows_although_the_intervals_overlap() -> None:
    """Images differ a lot, both models follow them, and one is always 0.02 better."""
    hard = np.random.default_rng(0).uniform(0.2, 0.8, 60)
    wobble = np.random.default_rng(1).normal(0, 0.01, 60)
    better, worse = side(hard + 0.02 + wobble), side(hard)
    apart = [
        resampling.attach_intervals(metrics)["objects/AP"].interval
        for metrics, resampling in (better, worse)
    ]
    assert apart[0] is not None
    assert apart[1] is not None
    assert apart[0][0] < apart[1][1]  # side by side, nothing could be said
    found = compare_evaluations(better, worse).differences["objects/AP"]
    assert found.difference == pytest.approx(0.02, abs=0.005)
    assert found.could_be_chance is False
    assert found.p == pytest.approx(2 / 1001)
    assert found.per_class["a"].interval == found.interval
    t_interval = stats.ttest_rel(hard + 0.02 + wobble, hard).confidence_interval()
    assert found.interval is not None
    widening = np.ptp(found.interval) / np.ptp((t_interval.low, t_interval.high))
    assert widening == pytest.approx(1, abs=0.05)
    mirrored = compare_evaluations(worse, better).differences["objects/AP"]
    assert mirrored.interval is not None
    assert mirrored.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_no_difference_could_be_chance() -> None:
    rng = np.random.default_rng(3)
    hard = rng.uniform(0.2, 0.8, 60)
    found = compare_evaluations(
        side(hard + rng.normal(0, 0.05, 60)), side(hard + rng.normal(0, 0.05, 60))
    )
    assert found.differences["objects/AP"].could_be_chance is True
    same = compare_evaluations(side(hard), side(hard)).differences["objects/AP"]
    assert (same.difference, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)
    assert same.could_be_chance is True


def test_p_counts_the_resamples_beyond_zero() -> None:
    assert two_sided_p(np.array([1.0] * 97 + [-1.0] * 2)) == pytest.approx(2 * 3 / 100)
    assert two_sided_p(np.array([1.0] * 98 + [np.nan, np.nan])) == pytest.approx(2 / 99)
    assert two_sided_p(np.array([-1.0, 1.0])) == 1.0


def test_what_is_not_shared_is_listed_with_the_reason() -> None:
    values = np.linspace(0, 1, 20)
    first, second = side(values), side(values / 2)
    first[0]["objects/FROC"] = Metric(0.5)
    first[0]["objects/AP50"] = Metric(0.5, {"a": 0.5})
    second[0]["objects/AP50"] = Metric(0.5, {"b": 0.5})
    made = side(values, head="scene")
    second[0].update(made[0])
    digests = {"objects": "x", "scene": "x"}
    merged = {**second[1].values, **made[1].values}
    found = compare_evaluations(
        first, (second[0], Resampling(Bootstrap(1000), "images", 20, digests, merged))
    )
    assert list(found.differences) == ["objects/AP"]
    assert found.not_compared == {
        "scene": "only the second evaluation has this head",
        "objects/FROC": "only the first evaluation has this metric",
        "objects/AP50": "the classes differ: only the first has a; only the second has b",
    }
    plain = found.to_json()
    assert plain["differences"]["objects/AP"]["could_be_chance"] is False
    assert plain["resamples"] == 1000


def test_numbers_counted_by_other_rules_are_not_compared() -> None:
    values = np.linspace(0, 1, 20)
    first, second = (
        (
            metrics,
            replace(made, rules={"objects/AP": f"FROC (LUNA16), hit when IoU >= {iou}; CPM."}),
        )
        for (metrics, made), iou in ((side(values), 0.5), (side(values), 0.3))
    )
    found = compare_evaluations(first, second)
    assert not found.differences
    assert found.not_compared == {
        "objects/AP": "computed by different rules: hit when IoU >= 0.5 / hit when IoU >= 0.3"
    }
    assert compare_evaluations(first, first).differences


def test_the_rules_of_an_evaluation_leave_out_what_does_not_change_numbers() -> None:
    """Both backends of boxes give the same numbers; more height bins do not change `easy`."""

    def rules(*evaluators: Evaluator) -> dict[str, str]:
        return dict(resample_heads({"head": evaluators}, {}, Bootstrap(10)).rules)

    one, other = (DetectionEvaluator(["a"], backend=each) for each in ("hotcoco", "pycocotools"))
    assert one.protocol != other.protocol
    assert rules(one) == rules(other)
    assert "head/AP" in rules(one)
    assert "head/AP/a" not in rules(one)
    plain, binned, alone = (
        KittiEvaluator(["Car", "Van"], KittiOptions(**options))
        for options in ({}, {"heights": (25, 50)}, {"neighbors": {}})
    )
    name = "head/KITTI_AP_easy"
    assert rules(plain)[name] == rules(binned)[name] != rules(alone)[name]
    froc = [FrocEvaluator(["a"], FrocOptions(iou=iou)) for iou in (0.5, 0.3)]
    assert rules(froc[0])["head/CPM"] != rules(froc[1])["head/CPM"]


def test_what_is_better_is_known_where_nothing_is_defined() -> None:
    first, second = side(np.linspace(0, 1, 20)), side(np.linspace(0, 1, 20))
    first[0]["objects/AP"] = Metric(None, {"a": None}, lower_is_better=True)
    found = compare_evaluations(first, second).differences["objects/AP"]
    assert found.lower_is_better
    assert found.per_class["a"].lower_is_better


def test_other_images_or_draws_are_refused() -> None:
    values = np.linspace(0, 1, 20)
    with pytest.raises(DataError, match="objects: evaluated on different images"):
        compare_evaluations(side(values), side(values, digest="y"))
    with pytest.raises(DataError, match="resampled differently"):
        compare_evaluations(side(values), side(values, seed=1))


def test_undefined_values_have_no_interval() -> None:
    first, second = side(np.linspace(0, 1, 20)), side(np.linspace(0, 1, 20))
    second[0]["objects/AP"] = Metric(None, {"a": None})
    found = compare_evaluations(first, second).differences["objects/AP"]
    assert (found.difference, found.interval, found.p, found.could_be_chance) == (None,) * 4
