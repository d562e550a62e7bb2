"""Two untrained classifiers on the same images: stored draws are used, and refusals say why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnet_tasks.assemble.split_files import merge_categories, read_split
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.metric_tables import format_number
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap, Resampling
from resnet_tasks.evaluation.uncertainty.paired_test import MetricDifference, PairedComparison
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.run_folder.checkpoint import save_checkpoint
from resnet_tasks.runs.paired_comparison import (
    EvaluationRequest,
    SavedEvaluation,
    build_paired_table,
    compare_runs,
)
from resnet_tasks.runs.run import Run
from tests.support.consoles import heard, quiet
from tests.support.random_runs import untrained_run

RECIPE = """\
data:
  root: kinds
  train: [{annotations: val.json}]
  val: [{annotations: val.json}]
  allow_leaks: true
backbone: {name: resnet10t, weights: none}
heads: {kind: {type: classifier}}
training: {epochs: 1, precision: fp32, device: cpu}
evaluation: {resamples: 200}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 noisy images of 12 patients, half of them bright; `other.json` holds half of them."""
    folder = tmp_path_factory.mktemp("data") / "kinds"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number_ in range(1, 25):
        name, kind = f"{number_}.png", number_ % 2
        cv2.imwrite(str(folder / name), (rng.random((32, 32, 3)) * 127 + 128 * kind).astype("u1"))
        size = {"height": 32, "width": 32, "group": f"patient {number_ // 2}"}
        images.append({"id": number_, "file_name": name, **size})
        annotations.append({"id": number_, "image_id": number_, "category_id": kind + 1})
    for name, count in (("val", 24), ("other", 12)):
        content = {
            "info": {"annotated": ["image"]},
            "images": images[:count],
            "annotations": annotations[:count],
            "categories": [{"id": 1, "name": "dark"}, {"id": 2, "name": "[bright]"}],
        }
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder.parent


def make_run(folder: Path, root: Path, seed: int, *changes: str) -> Run:
    recipe_file = folder.parent / f"{folder.name}.yaml"
    recipe_file.write_text(RECIPE)
    recipe = load_recipe(recipe_file, changes)
    return untrained_run(
        folder, recipe, merge_categories(read_split(recipe, "val", root)), seed=seed
    )


@pytest.fixture
def pair(tmp_path: Path, root: Path) -> tuple[Run, Run]:
    return make_run(tmp_path / "a", root, 1), make_run(tmp_path / "b", root, 2)


def test_the_other_runs_stored_draws_are_used_and_give_the_same_answer(
    pair: tuple[Run, Run], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = pair
    judged = EvaluationRequest(data_root=root)
    evaluation = run.evaluate(data_root=root, console=quiet())
    assert evaluation.resampling is not None
    assert (evaluation.resampling.unit_name, evaluation.resampling.units) == ("groups", 13)
    console = quiet()
    fresh, file = compare_runs(run, other, judged, console=console)
    assert "evaluating" in heard(console)
    assert file == run.directory / "evaluations/val/paired-b.json"

    monkeypatch.setattr(Run, "evaluate", None)  # what is kept is enough now
    again, _ = compare_runs(run, other, judged, console=quiet())
    assert again.to_json() == fresh.to_json()
    kept = json.loads(file.read_text())
    metric = kept["differences"]["kind/top1"]
    assert metric["difference"] == metric["value"] - metric["other"]
    assert metric["interval"][0] <= metric["difference"] <= metric["interval"][1]
    back, _ = compare_runs(other, run, judged, console=quiet())
    mirrored = back.differences["kind/top1"].interval
    assert mirrored == pytest.approx((-metric["interval"][1], -metric["interval"][0]))


def test_changed_weights_are_judged_again(pair: tuple[Run, Run], root: Path) -> None:
    run, other = pair
    for each in pair:
        each.evaluate(data_root=root, console=quiet())
    weights = run.load_model().state_dict()
    save_checkpoint(other.find_checkpoint(), model=weights)
    console = quiet()
    opened = Run.open(other.directory)
    found, _ = compare_runs(run, opened, EvaluationRequest(data_root=root), console=console)
    assert "evaluating" in heard(console)
    assert all(each.difference in (0.0, None) for each in found.differences.values())
    assert all(each.could_be_chance is not False for each in found.differences.values())


def test_draws_of_an_earlier_version_are_computed_again(pair: tuple[Run, Run], root: Path) -> None:
    for each in pair:
        each.evaluate(data_root=root, console=quiet())
    path = pair[1].get_evaluation_folder() / "resamples.npz"
    arrays = dict(np.load(path))
    about = json.loads(str(arrays["about"]))
    for version, answer in ((1, True), (99, False)):
        arrays["about"] = np.array(json.dumps({**about, "format_version": version}))
        np.savez(path, **arrays)
        if answer:
            compare_runs(*pair, EvaluationRequest(data_root=root), console=quiet())
            continue
        with pytest.raises(RunError, match=r"resamples\.npz was written by a newer version"):
            compare_runs(*pair, EvaluationRequest(data_root=root), console=quiet())


def test_refusals_say_why(pair: tuple[Run, Run], root: Path, tmp_path: Path) -> None:
    run, other = pair
    judged = EvaluationRequest(data_root=root)
    with pytest.raises(RunError, match="cannot be compared with itself"):
        compare_runs(run, Run.open(run.directory), judged, console=quiet())
    with pytest.raises(RunError, match="evaluate the run again"):
        compare_runs(run, other, judged, console=quiet())
    run.evaluate(data_root=root, console=quiet())
    elsewhere = make_run(tmp_path / "c", root, 3, "data.val=[{annotations: other.json}]")
    with pytest.raises(DataError, match=r"val\.json, .* on .*other\.json, whose contents differ"):
        compare_runs(run, elsewhere, judged, console=quiet())
    bare = make_run(tmp_path / "d", root, 4, "evaluation.resamples=0")
    bare.evaluate(data_root=root, console=quiet())
    with pytest.raises(RunError, match=r"evaluation\.resamples is 0"):
        compare_runs(bare, run, judged, console=quiet())


def test_an_evaluation_reads_back_as_it_was_made(pair: tuple[Run, Run], root: Path) -> None:
    made = pair[0].evaluate(data_root=root, console=quiet())
    folder = pair[0].get_evaluation_folder()
    kept = SavedEvaluation.read(folder)
    assert dict(kept.metrics) == made.metrics
    assert kept.metadata["intervals"]["method"] == "half samples of groups"
    assert kept.metadata["intervals"]["units"] == 13
    assert json.loads((folder / "details.json").read_text()).keys() == {"kind"}


def test_tables_show_the_sign_the_interval_and_the_verdict(
    pair: tuple[Run, Run], root: Path
) -> None:
    for each in pair:
        each.evaluate(data_root=root, console=quiet())
    found, _ = compare_runs(*pair, EvaluationRequest(data_root=root), console=quiet())
    console = quiet()
    console.print(build_paired_table(found, "a against b"))
    text = heard(console)
    assert "kind/top1" in text
    assert "[bright]" in text  # not read as markup
    assert re.search(r"kind/top1 .* 1\.00 │ n\.s\. ", text)
    assert "n.s.: not significant, the 95 % interval contains 0" in text
    assert format_number(0.1234, (-0.1, 0.2), signed=True) == "+0.123 [-0.100, +0.200]"
    assert format_number(None) == "-"


def test_a_difference_without_an_interval_has_no_verdict() -> None:
    bare = MetricDifference(0.5, 0.25, None, None)
    per_class = {"absent": MetricDifference(None, None, None, None), "there": bare}
    worse = MetricDifference(3.0, 1.0, (1.5, 2.5), 0.002, unit="px", lower_is_better=True)
    differences = {
        "a/AP": MetricDifference(0.5, 0.25, (0.125, 0.375), 0.0004, per_class),
        "a/patient_sensitivity_at_0.125": bare,
        "a/HD95": worse,
    }
    made = Resampling(Bootstrap(10), "images", 10, {}, {})
    console = quiet()
    console.print(build_paired_table(PairedComparison(differences, {}, made)))
    text = heard(console)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()[4:-1]]
    assert rows == [
        ["a/AP", "0.500", "0.250", "+0.250 [+0.125, +0.375]", "<0.001", "better"],
        ["absent", "-", "-", "-", "-", "-"],
        ["there", "0.500", "0.250", "+0.2500", "-", "-"],
        ["a/patient_sensitivity_at_0.125", "0.500", "0.250", "+0.2500", "-", "-"],
        ["a/HD95", "3.000 px", "1.000 px", "+2.000 [+1.500, +2.500]", "0.002", "worse"],
    ]


@pytest.mark.parametrize("number", [21, 80, 1200])
def test_of_many_classes_the_lowest_and_highest_differences_are_listed(number: int) -> None:
    per_class = {
        f"class {'of a long name ' * 4}{i}": MetricDifference(i / number, 0.5, (-0.1, 0.1), 0.5)
        for i in range(number - 1)
    }
    per_class["absent"] = MetricDifference(None, None)
    differences = {"a/AP": MetricDifference(0.5, 0.25, (0.125, 0.375), 0.002, per_class)}
    made = Resampling(Bootstrap(10), "images", 10, {}, {})
    console = quiet(120)
    console.print(build_paired_table(PairedComparison(differences, {}, made)))
    rows = [line.split("│") for line in heard(console).splitlines() if "│" in line]
    assert len(rows) == 8, "the metric, six classes, and how many more there are"
    assert [row[1].split()[-1] for row in rows[1:4]] == ["0", "1", "2"]
    assert rows[6][1].split()[-1] == str(number - 2)
    assert rows[7][1].strip() == f"({number - 6} more classes)"
