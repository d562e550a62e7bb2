"""Intervals: hand-computed draws, groups as a whole, honest refusals, and coverage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.uncertainty import bootstrap as intervals
from resnet_tasks.evaluation.uncertainty.bootstrap import (
    Bootstrap,
    Resampling,
    ResamplingUnits,
    attach_intervals,
    compute_interval,
    resample_heads,
)
from resnet_tasks.structures.evaluation import GroundTruth, Metric


class Means:
    """Judges nothing: `mean` of one number per image, with class `a` seen on some of them."""

    protocol = "the mean"

    def __init__(
        self, ids: Sequence[int | str], values: Sequence[float], has_a: Any = None
    ) -> None:
        self._ids = tuple(ids)
        self._values = np.asarray(values, np.float64)
        self._has_a = np.ones(len(ids), np.int64) if has_a is None else np.asarray(has_a, np.int64)

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        return self._ids

    def update(self, prediction: Any, truth: GroundTruth) -> None:
        raise NotImplementedError

    def compute(self) -> dict[str, Metric]:
        ones = self.resample(np.ones((1, len(self._ids)), np.int64))
        return {"mean": Metric(float(ones["mean"][0]), {"a": float(ones["mean/a"][0])})}

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        with np.errstate(invalid="ignore"):
            of_a = (counts * self._has_a) @ self._values / (counts * self._has_a).sum(1)
        return {"mean": counts @ self._values / counts.sum(1), "mean/a": of_a}


def counts_of(units: ResamplingUnits, bootstrap: Bootstrap) -> NDArray[np.int64]:
    return np.concatenate(list(units.sample_counts(bootstrap)))


def test_every_resample_draws_as_many_images_as_there_are() -> None:
    counts = counts_of(ResamplingUnits.from_image_ids(range(7)), Bootstrap(50))
    assert counts.shape == (50, 7)
    assert (counts.sum(1) == 7).all()
    assert counts.min() == 0
    assert counts.max() > 1


def test_a_group_is_drawn_as_a_whole() -> None:
    groups: dict[int | str, str] = {1: "p", 2: "p", 3: "q", 4: "q"}
    units = ResamplingUnits.from_image_ids((1, 3, 2, 4, 5), groups)  # image 5 stands alone
    assert (units.unit_name, units.number) == ("groups", 3)
    counts = counts_of(units, Bootstrap(200))
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 1] == counts[:, 3]).all()
    assert (counts[:, 0] != counts[:, 1]).any()
    assert (counts[:, 0] + counts[:, 1] + counts[:, 4] == 3).all()


def test_draws_depend_on_ids_and_seed_alone() -> None:
    forward = counts_of(ResamplingUnits.from_image_ids((3, 10, "x", 7)), Bootstrap(30, seed=4))
    backward = counts_of(ResamplingUnits.from_image_ids((7, "x", 10, 3)), Bootstrap(30, seed=4))
    assert (forward == backward[:, ::-1]).all()
    assert (
        ResamplingUnits.from_image_ids((3, 10)).digest
        == ResamplingUnits.from_image_ids((10, 3)).digest
    )
    assert (
        ResamplingUnits.from_image_ids((3, 10)).digest
        != ResamplingUnits.from_image_ids((3, "10")).digest
    )
    assert (
        ResamplingUnits.from_image_ids((3, 10)).digest
        != ResamplingUnits.from_image_ids((3, 10), {3: "p"}).digest
    )
    other = counts_of(ResamplingUnits.from_image_ids((3, 10, "x", 7)), Bootstrap(30, seed=5))
    assert (forward != other).any()


def test_draws_are_the_same_however_few_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = counts_of(ResamplingUnits.from_image_ids(range(13)), Bootstrap(101))
    monkeypatch.setattr(intervals, "COUNTS_AT_ONCE", 40)
    assert (counts_of(ResamplingUnits.from_image_ids(range(13)), Bootstrap(101)) == whole).all()
    assert (
        max(
            len(each)
            for each in ResamplingUnits.from_image_ids(range(13)).sample_counts(Bootstrap(101))
        )
        == 3
    )


def test_interval_is_that_of_the_percentiles() -> None:
    assert compute_interval(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))
    assert compute_interval(np.full(10, 0.5)) == (0.5, 0.5)
    assert compute_interval(None) is None
    assert compute_interval(np.zeros(0)) is None


def test_undefined_resamples_are_left_out_while_they_are_few() -> None:
    values = np.arange(1000) / 1000
    values[:50] = np.nan
    found = compute_interval(values)
    assert found is not None
    assert found[0] == pytest.approx(0.05 + 0.025 * 0.949)
    values[50] = np.nan
    assert compute_interval(values) is None


def test_intervals_of_a_mean_agree_with_the_enumeration_of_all_draws() -> None:
    """Ten images, one of value 1: the resampled mean is Binomial(10, 1/10) / 10."""
    judge = Means(range(10), [1.0] + [0.0] * 9)
    made = resample_heads({"head": [judge]}, {}, Bootstrap(20_000))
    metrics = attach_intervals({"head/mean": judge.compute()["mean"]}, made.values)
    # P(0) = 0.349 lies above 2.5 %, P(<= 2) = 0.930 below and P(<= 3) = 0.987 above 97.5 %.
    assert metrics["head/mean"].interval == (0.0, 0.3)
    share = float((made.values["head/mean"] == 0).mean())
    assert share == pytest.approx(0.9**10, abs=4 * np.sqrt(0.35 * 0.65 / 20_000))
    assert made.to_json()["method"] == "percentile bootstrap over images"
    assert made.to_json()["units"] == 10


def test_too_few_images_or_groups_get_no_interval_but_a_note() -> None:
    few = resample_heads({"head": [Means(range(9), range(9))]}, {}, Bootstrap(100))
    assert not few.values
    assert few.notes == ("head: only 9 images, too few for intervals (at least 10 needed)",)
    groups: dict[int | str, str] = {i: f"patient {i // 10}" for i in range(40)}
    grouped = resample_heads({"head": [Means(range(40), range(40))]}, groups, Bootstrap(100))
    assert (str(ResamplingUnits.from_image_ids([5])), str(ResamplingUnits.from_image_ids([]))) == (
        "1 image",
        "0 images",
    )
    assert grouped.notes == ("head: only 4 groups, too few for intervals (at least 10 needed)",)


def test_intervals_of_few_images_come_with_a_caution() -> None:
    """A mean over 12 images: the nominal 95 % are about 90."""
    made = resample_heads({"head": [Means(range(12), range(12))]}, {}, Bootstrap(50))
    assert made.values
    (note,) = made.notes
    assert note.startswith("head: only 12 images: with fewer than 30, intervals are somewhat too")
    assert not resample_heads({"head": [Means(range(30), range(30))]}, {}, Bootstrap(50)).notes
    counts = counts_of(ResamplingUnits.from_image_ids(range(12)), Bootstrap(400))
    rng = np.random.default_rng(0)
    ends = [compute_interval(counts @ rng.normal(size=12) / 12) for _ in range(600)]
    covered = np.mean([each is not None and each[0] <= 0 <= each[1] for each in ends])
    assert 0.85 < covered < 0.94


def test_a_class_on_few_images_gets_no_interval_and_is_named() -> None:
    judge = Means(range(20), range(20), has_a=[1] + [0] * 19)
    made = resample_heads({"head": [judge]}, {}, Bootstrap(200))
    metrics = attach_intervals({"head/mean": judge.compute()["mean"]}, made.values)
    assert metrics["head/mean"].interval is not None
    assert metrics["head/mean"].per_class_interval == {"a": None}
    assert made.notes[-1].startswith("head: no intervals for 1 class (a): fewer than 95% of ")


def test_classes_without_intervals_are_one_note_per_head_for_any_number_of_metrics() -> None:
    class Many(Means):
        def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
            rare = super().resample(counts)["mean/a"]
            names = [f"{metric}/class {i}" for metric in ("mean", "peak") for i in range(80)]
            return {"mean": counts.mean(axis=1), "peak": rare, **dict.fromkeys(names, rare)}

    judge = Many(range(40), range(40), has_a=[1] + [0] * 39)
    notes = resample_heads({"one": [judge], "two": [judge]}, {}, Bootstrap(200)).notes
    listed = "80 classes (class 0, class 1, class 2, class 3, class 4, and 75 more)"
    assert [note.partition(": fewer")[0] for note in notes] == [
        "one: no interval for peak",
        "two: no interval for peak",
        f"one: no intervals for {listed}",
        f"two: no intervals for {listed}",
    ]


def test_undefined_values_get_no_interval() -> None:
    judge = Means(range(20), range(20))
    made = resample_heads({"head": [judge]}, {}, Bootstrap(20))
    filled = attach_intervals({"head/mean": Metric(None, {"a": None})}, made.values)
    assert filled["head/mean"] == Metric(None, {"a": None}, None, {"a": None})


def test_an_evaluator_that_cannot_resample_is_named() -> None:
    class Plain:
        protocol = ""

        def update(self, prediction: Any, truth: GroundTruth) -> None: ...

        def compute(self) -> dict[str, Metric]:
            return {}

    made = resample_heads({"head": [Plain()]}, {}, Bootstrap(10))
    assert made.notes == ("head: no intervals, because Plain does not support resampling",)


def test_resampled_values_come_back_from_a_file(tmp_path: Path) -> None:
    judge = Means(range(20), range(20))
    made = resample_heads({"head": [judge]}, {}, Bootstrap(30, seed=2))
    made.save(tmp_path / "resamples.npz")
    again = Resampling.load(tmp_path / "resamples.npz")
    assert again.to_json() == made.to_json()
    assert again.digests == made.digests
    for name, values in made.values.items():
        assert (again.values[name] == values).all()
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "resamples.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="damaged"):
        Resampling.load(tmp_path / "damaged.npz")


def test_nothing_to_save_is_saved(tmp_path: Path) -> None:
    few = resample_heads({"head": [Means(range(3), range(3))]}, {}, Bootstrap(5))
    few.save(tmp_path / "few.npz")
    assert not Resampling.load(tmp_path / "few.npz").values


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_cover_the_truth_about_95_times_in_100(grouped: bool) -> None:
    """A rate of 0.7, on images of their own or in groups that share a shift."""
    rng, covered, experiments = np.random.default_rng(1), 0, 400
    units, size = 80, 5 if grouped else 1
    ids = range(units * size)
    groups: dict[int | str, str] = {i: str(i // size) for i in ids} if grouped else {}
    for _ in range(experiments):
        shift = np.repeat(rng.normal(0, 0.2, units), size)
        values = 0.7 + shift + rng.normal(0, 0.1, units * size)
        made = resample_heads({"head": [Means(ids, values.tolist())]}, groups, Bootstrap(400))
        found = compute_interval(made.values["head/mean"])
        assert found is not None
        covered += found[0] <= 0.7 <= found[1]
    # Three standard errors of a share of 0.95 in 400 are 0.033; percentiles fall a little short.
    assert 0.91 <= covered / experiments <= 0.985
