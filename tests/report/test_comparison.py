from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.errors import RunError
from resnet_tasks.report.comparison import (
    ComparisonTable,
    list_headline_rows,
    list_measured_costs,
    make_comparison,
    make_distinct_names,
)
from resnet_tasks.report.page import write_comparison
from resnet_tasks.report.run_view import read_run
from resnet_tasks.runs.model_cost import ModelCost


@pytest.fixture
def pair(made: Any, tmp_path: Path) -> tuple[Any, Any]:
    """Two runs; the second is free to be changed."""
    shutil.copytree(made.folder, tmp_path / "second")
    return made, type(made)(tmp_path / "second", made.data)


def compared(pair: tuple[Any, Any]) -> Any:
    return make_comparison([read_run(each.folder) for each in pair], None)


def row(table: ComparisonTable, name: str) -> Any:
    return next(cells for key, _, cells in table.rows if key == name)


def test_differences_are_to_the_first_and_know_what_is_better(pair: tuple[Any, Any]) -> None:
    def change(value: dict[str, Any]) -> None:
        value["metrics"]["objects/AP"]["value"] = 0.6
        value["metrics"]["objects/AP"]["per_class"][pair[0].names[0]] = 0.4
        value["metrics"]["scene/HD95"]["value"] = 4.5
        del value["metrics"]["scene/mIoU"]

    pair[1].edit("metrics.json", change)
    pair[1].write_resamples()
    page = compared(pair)
    objects, scene = page.metrics
    first, second = row(objects, "AP")
    assert (first.difference, first.better) == (None, None)
    assert second.difference == pytest.approx(0.1)
    assert second.interval == pytest.approx((0.1, 0.1))
    assert second.better is True
    assert row(objects, "AP50")[1].better is None  # equal
    assert row(objects, "AP_large")[1].difference is None  # not defined
    assert row(scene, "HD95")[1].better is False  # larger distances are worse
    assert row(scene, "mIoU")[1].score is None
    by_class = page.classes[0]
    assert by_class.title == "objects: AP"
    assert row(by_class, pair[0].names[0])[1].better is False


def test_a_difference_counts_only_if_its_interval_excludes_zero(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    def change(value: dict[str, Any]) -> None:
        value["metrics"]["objects/AP"]["value"] = 0.6  # with noise of this run alone
        value["metrics"]["objects/AP50"]["value"] = 0.8

    pair[1].edit("metrics.json", change)
    pair[1].write_resamples({"objects/AP": 0.2})
    objects, _ = compared(pair).metrics
    uncertain, clear = row(objects, "AP")[1], row(objects, "AP50")[1]
    assert uncertain.difference == pytest.approx(0.1)
    assert uncertain.interval[0] < 0 < uncertain.interval[1]
    assert uncertain.better is None
    assert clear.better is True
    page = write_comparison([each.folder for each in pair], tmp_path / "page.html")
    cells = re.findall(r'class="difference([^"]*)">([^ <]*)', page.read_text(encoding="utf-8"))
    assert ("", "+0.100") in cells
    assert (" better", "+0.050") in cells
    assert ("", "±0") in cells
    (pair[1].evaluation / "resamples.npz").unlink()
    page_without = compared(pair)
    assert row(page_without.metrics[0], "AP50")[1].better is None
    assert "second and run have no intervals" in " ".join(page_without.warnings)
    assert "no resamples.npz" in " ".join(page_without.warnings)


def test_recipes_are_compared_key_by_key_with_defaults(pair: tuple[Any, Any]) -> None:
    recipe = pair[1].folder / "recipe.yaml"
    text = recipe.read_text().replace("epochs: 2", "epochs: 3")
    recipe.write_text(text.replace("{type: unet,", "{type: fpn,"))
    assert compared(pair).recipes == [
        ("heads.scene.type", ("unet", "fpn")),
        ("training.epochs", ("2", "3")),
    ]
    costs = dict(compared(pair).costs)
    assert costs["epochs"] == ("2", "3")
    assert costs["training time"] == ("1 min 0 s", "1 min 0 s")
    assert costs["parameters"] == ("–", "–")


def test_what_cannot_be_compared_is_said(pair: tuple[Any, Any]) -> None:
    assert compared(pair).warnings == []
    pair[1].edit("metrics.json", lambda value: value.update(data={"x": "another"}, protocol={}))
    said = " ".join(compared(pair).warnings)
    assert "different annotation files" in said
    assert "second on x." in said
    assert "different protocols" in said
    runs = [str(each.folder) for each in pair]
    page = pair[1].folder / "page.html"
    result = CliRunner().invoke(app, ["compare", *runs, "--no-costs", "--out", str(page)])
    assert result.exit_code == 0, result.output
    for warning in compared(pair).warnings:
        assert f"warning: {warning}" in result.output
    shutil.rmtree(pair[1].folder / "evaluations")
    assert "second has no evaluation." in compared(pair).warnings
    with pytest.raises(RunError, match="at least two runs"):
        make_comparison([read_run(pair[0].folder)], None)
    with pytest.raises(RunError, match="no evaluation 'val'"):
        make_comparison([read_run(each.folder) for each in pair], "val")


def test_all_curves_of_a_metric_share_a_chart(pair: tuple[Any, Any]) -> None:
    lines = (pair[1].folder / "log.jsonl").read_text().splitlines()
    events = [json.loads(each) for each in lines]
    kept = [each for each in events if "objects/AP" not in each.get("metrics", {})]
    (pair[1].folder / "log.jsonl").write_text("\n".join(map(json.dumps, kept)))
    charts = {each.title: each for each in compared(pair).learning.value}
    assert [name for name, *_ in charts["objects: training loss"].legend] == ["run", "second"]
    assert charts["objects/AP: validation"].legend == ()


def test_names_tell_the_folders_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "other"]
    assert make_distinct_names(folders) == ["a/run", "b/run", "b/other"]
    assert make_distinct_names([tmp_path, tmp_path]) == [
        f"{tmp_path.name} (1)",
        f"{tmp_path.name} (2)",
    ]


def test_a_difference_that_rounds_to_nothing_has_no_sign(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    def change(value: dict[str, Any]) -> None:
        for each in value["metrics"].values():
            if each["value"] is not None:
                each["value"] -= 0.0001

    pair[1].edit("metrics.json", change)
    pair[1].write_resamples()
    page = write_comparison([each.folder for each in pair], tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert '<span class="difference">±0.000' in text
    assert "[±" not in text
    assert ", ±" not in text
    assert 'difference worse">±' not in text
    assert "−0.000" not in text


def test_prices_are_shown_with_ratios_and_the_price_of_sharing(pair: tuple[Any, Any]) -> None:
    both = read_run(pair[0].folder)
    halves = [
        replace(both, labels=replace(both.labels, heads={name: each}))
        for name, each in both.labels.heads.items()
    ]
    prices = [
        ModelCost(80, 1_500_000_000, 0.03, 60_000_000),
        ModelCost(50, 10**9, 0.02, 40_000_000),
    ]
    prices.append(ModelCost(50, 2 * 10**9, 0.03, 80_000_000))
    rows = dict(list_measured_costs([both, *halves], prices))
    assert rows["GFLOPs"] == ("1.50", "1.00 (0.67x)", "2.00 (1.33x)")
    assert rows["latency, ms"] == ("30.0", "20.0 (0.67x)", "30.0 (1.00x)")
    assert rows["peak memory, MB"] == ("60", "40 (0.67x)", "80 (1.33x)")
    assert rows["parameters, relative to the sum of the other runs"] == ("0.80", "–", "–")
    assert rows["GFLOPs, relative to the sum of the other runs"] == ("0.50", "–", "–")
    assert rows["latency, relative to the sum of the other runs"] == ("0.60", "–", "–")
    assert len(list_measured_costs([both, both], prices[:2])) == 3  # no halves of the first


def test_the_console_shows_metrics_by_head_and_costs(pair: tuple[Any, Any]) -> None:
    rows = dict(list_headline_rows(compared(pair)))
    assert rows["objects/AP"] == ("0.5000", "0.5000 (+0.0000)")
    assert "scene/mIoU" in rows
    assert "parameters" in rows
    assert not any(name.startswith("objects/AR") for name in rows)
