"""Intervals: hand-computed draws, groups as a whole, honest refusals, and coverage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.uncertainty import bootstrap as intervals
from resnet_tasks.evaluation.uncertainty.bootstrap import (
    Bootstrap,
    Resampling,
    ResamplingUnits,
    attach_intervals,
    resample_heads,
)
from resnet_tasks.evaluation.uncertainty.half_samples import (
    DISTANCE,
    FRACTION,
    compute_interval,
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


@pytest.mark.parametrize(("number", "half"), [(8, 4), (7, 3)])
def test_every_resample_consists_of_half_of_the_images(number: int, half: int) -> None:
    counts = counts_of(ResamplingUnits.from_image_ids(range(number)), Bootstrap(2000))
    assert counts.shape == (2000, number)
    assert (counts.sum(1) == half).all()
    assert set(counts.ravel()) == {0, 1}
    # Every image is drawn as often as any other, within four standard errors.
    assert np.abs(counts.mean(0) - half / number).max() < 4 * np.sqrt(0.25 / 2000)


def test_a_group_is_drawn_as_a_whole() -> None:
    groups: dict[int | str, str] = {1: "p", 2: "p", 3: "q", 4: "q"}
    units = ResamplingUnits.from_image_ids((1, 3, 2, 4, 5), groups)  # image 5 stands alone
    assert (units.unit_name, units.number) == ("groups", 3)
    counts = counts_of(units, Bootstrap(200))
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 1] == counts[:, 3]).all()
    assert (counts[:, 0] != counts[:, 1]).any()
    assert (counts[:, 0] + counts[:, 1] + counts[:, 4] == 1).all()


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


def test_intervals_of_a_mean_agree_with_the_enumeration_of_all_draws() -> None:
    """Ten images, one of value 1: half of the samples contain it, and have the mean 0.2."""
    judge = Means(range(10), [1.0] + [0.0] * 9)
    made = resample_heads({"head": [judge]}, {}, Bootstrap(20_000))
    values = made.values["head/mean"]
    assert set(values) == {0.0, 0.2}
    assert float((values == 0).mean()) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 20_000))
    metrics = made.attach_intervals({"head/mean": judge.compute()["mean"]})
    assert metrics["head/mean"].interval == compute_interval(values, 0.1, 10, FRACTION)
    assert made.to_json()["method"] == "half samples of images"
    assert made.to_json()["units"] == 10


def test_heads_have_their_own_numbers_of_units() -> None:
    judges = {"few": [Means(range(20), np.arange(20) / 20)]}
    judges["many"] = [Means(range(80), np.arange(80) / 80)]
    made = resample_heads(judges, {}, Bootstrap(500))
    assert (made.units, made.count_units("few/mean"), made.count_units("many/mean")) == (80, 20, 80)
    metrics = made.attach_intervals({"few/mean": Metric(19 / 40)})
    assert metrics["few/mean"].interval == compute_interval(
        made.values["few/mean"], 19 / 40, 20, FRACTION
    )


def test_a_metric_with_a_unit_is_not_limited_to_1() -> None:
    values = {"HD95": np.random.default_rng(0).uniform(0, 1, 500)}
    for unit, limits in (("mm", DISTANCE), ("", FRACTION)):
        found = attach_intervals({"HD95": Metric(0.5, unit=unit)}, values, 50)["HD95"].interval
        assert found == compute_interval(values["HD95"], 0.5, 50, limits)
    assert found is not None
    assert found[1] < 1


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


@pytest.mark.parametrize(("number", "size"), [(10, 10), (19, 10), (20, 20), (99, 40)])
def test_the_coverage_measured_with_few_images_is_stated(number: int, size: int) -> None:
    made = resample_heads({"head": [Means(range(number), range(number))]}, {}, Bootstrap(50))
    lowest, highest = intervals.MEASURED_COVERAGE[size]
    (note,) = made.notes
    assert note == (
        f"head: only {number} images: in simulations with {size}, 95 % intervals of AP, mIoU and "
        f"Dice contained the true value in {lowest} to {highest} % of cases"
    )


def test_many_images_need_no_note() -> None:
    judge = Means(range(100), range(100))
    assert not resample_heads({"head": [judge]}, {}, Bootstrap(50)).notes


def test_a_class_on_few_images_gets_no_interval_and_is_named() -> None:
    judge = Means(range(20), range(20), has_a=[1] + [0] * 19)
    made = resample_heads({"head": [judge]}, {}, Bootstrap(200))
    metrics = made.attach_intervals({"head/mean": judge.compute()["mean"]})
    assert metrics["head/mean"].interval is not None
    assert metrics["head/mean"].per_class_interval == {"a": None}
    assert made.notes[-1].startswith("head: no intervals for 1 class (a): fewer than 95% of ")


def test_classes_without_intervals_are_one_note_per_head_for_any_number_of_metrics() -> None:
    class Many(Means):
        def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
            rare = super().resample(counts)["mean/a"]
            names = [f"{metric}/class {i}" for metric in ("mean", "peak") for i in range(80)]
            return {"mean": counts.mean(axis=1), "peak": rare, **dict.fromkeys(names, rare)}

    judge = Many(range(100), range(100), has_a=[1] + [0] * 99)
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
    filled = made.attach_intervals({"head/mean": Metric(None, {"a": None})})
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
    assert again.head_units == {"head": 20}
    for name, values in made.values.items():
        assert (again.values[name] == values).all()
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "resamples.npz").read_bytes()[:200])
    with pytest.raises(RunError, match="damaged"):
        Resampling.load(tmp_path / "damaged.npz")


def test_a_file_of_draws_with_replacement_is_named(tmp_path: Path) -> None:
    """Files of earlier versions have no format version."""
    path = tmp_path / "resamples.npz"
    resample_heads({"head": [Means(range(20), range(20))]}, {}, Bootstrap(5)).save(path)
    with np.load(path) as archive:
        metadata, values = json.loads(str(archive["about"])), archive["values"]
    del metadata["format_version"]
    np.savez_compressed(path, about=np.array(json.dumps(metadata)), values=values)
    message = r"resamples.npz was written by an older .*version 1, this version reads 2\); evaluate"
    with pytest.raises(RunError, match=message):
        Resampling.load(path)


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
        metrics = made.attach_intervals({"head/mean": Metric(float(values.mean()))})
        found = metrics["head/mean"].interval
        assert found is not None
        covered += found[0] <= 0.7 <= found[1]
    # Three standard errors of a fraction of 0.96 in 400 are 0.03; 80 units widen the intervals.
    assert 0.93 <= covered / experiments <= 0.99
