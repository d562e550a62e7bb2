"""Plugins are first-class: what works with a built-in head works with theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import resnet_tasks
from examples.centernet_head import CenterNet
from examples.count_task import Counter
from resnet_tasks.cli import app
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.report.comparison import list_headline_rows, make_comparison
from resnet_tasks.report.run_view import read_run
from resnet_tasks.sharing.hub import HubUpload
from resnet_tasks.testing.head_contract import check_head
from resnet_tasks.testing.random_batches import resnet_specs
from tests.examples.conftest import TRUST, TrainedPlugin, call, read_example


def _read_value(run: Path, name: str, evaluation: str = "val") -> float:
    metrics = json.loads((run / "evaluations" / evaluation / "metrics.json").read_text())
    value = metrics["metrics"][name]["value"]
    assert isinstance(value, float)
    return value


def test_the_examples_keep_the_contract() -> None:
    levels = {level: spec for level, spec in resnet_specs(16).items() if level != "C1"}
    pyramid = FeaturePyramid(levels, 64).specs
    check_head(CenterNet, specs=pyramid, options={"detections_per_image": 20}, quiet=True)
    check_head(Counter, quiet=True)


def test_the_detector_uses_public_parts_only() -> None:
    """The contract of heads, building blocks and typed structures."""
    public = ("resnet_tasks.heads.base", "resnet_tasks.layers.", "resnet_tasks.structures.")
    imports = re.findall(r"from (resnet_tasks\S+) import (.+)", read_example("centernet_head"))
    assert len(imports) > 5
    for module, names in imports:
        assert module.startswith(public), module
        assert not re.search(r"\b_", names), names


@pytest.mark.parametrize("trained", ["centernet_head"], indirect=True)
def test_the_detector_is_short_and_overfits(trained: TrainedPlugin) -> None:
    assert len(trained.plugin.code.splitlines()) <= 100
    assert _read_value(trained.run, "mine/AP50") >= 0.9
    assert _read_value(trained.other, "mine/AP50") < 0.5


def test_training_evaluates_and_predicts(trained: TrainedPlugin, tmp_path: Path) -> None:
    run = resnet_tasks.load(trained.run, trust_plugins=True)
    metric = f"mine/{trained.plugin.metric}"
    value = run.evaluate("val", data_root=trained.root).metrics[metric].value
    assert value == pytest.approx(_read_value(trained.run, metric), abs=1e-6)
    call("predict", trained.run, trained.images, "--out", tmp_path, TRUST)
    assert len(list((tmp_path / "overlays").iterdir())) == 4
    first = sorted(trained.images.iterdir())[0]
    prediction = run.predict(cv2.cvtColor(cv2.imread(str(first)), cv2.COLOR_BGR2RGB))["mine"]
    assert prediction.find_problem((96, 128), len(run.classes["mine"])) is None
    if trained.plugin.name == "tiny_fcn":
        return
    rows = json.loads((tmp_path / "mine.json").read_text())
    assert {row["category_id"] for row in rows} <= set(run.category_ids["mine"])
    if trained.plugin.name == "count_task":
        assert len(rows) == 4 * 3
        counts = [row["count"] for row in rows[:3]]
        np.testing.assert_allclose(counts, prediction.counts, atol=1e-3)


def test_views_and_windows(trained: TrainedPlugin) -> None:
    call("evaluate", trained.run, TRUST, "--data-root", trained.root, "--tta", "flips")
    _read_value(trained.run, f"mine/{trained.plugin.metric}", "val-flips")
    windows = ("predict", trained.run, trained.images, "--tiles", "96", TRUST)
    result = CliRunner().invoke(app, [*map(str, windows), "--out", str(trained.root / "tiles")])
    if trained.plugin.name == "count_task":
        assert result.exit_code == 2
        assert "windows" in result.stderr
    else:
        assert result.exit_code == 0, result.output


def test_explanations(trained: TrainedPlugin, tmp_path: Path) -> None:
    first = sorted(trained.images.iterdir())[0]
    call("explain", trained.run, first, "--out", tmp_path, TRUST)
    (entry,) = json.loads((tmp_path / "explanations.json").read_text())
    assert entry["head"] == "mine"
    # The coarsest level that the head uses.
    assert entry["level"] == ("C4" if trained.plugin.name == "tiny_fcn" else "C5")
    assert (tmp_path / entry["drawing"]).is_file()


def test_calibration(trained: TrainedPlugin) -> None:
    arguments = ["calibrate", str(trained.run), TRUST, "--data-root", str(trained.root)]
    result = CliRunner().invoke(app, arguments)
    if trained.plugin.name == "count_task":
        assert result.exit_code == 2
        assert "mine: calibration of object_counting is not supported" in result.stderr
        return
    assert result.exit_code == 0, result.output
    call("evaluate", trained.run, TRUST, "--data-root", trained.root, "--calibrated")
    assert json.loads((trained.run / "calibration.json").read_text())["heads"]["mine"]


def test_reports_comparisons_and_cards_run_no_code(trained: TrainedPlugin) -> None:
    page = call("report", trained.run, "--data-root", trained.root)
    assert "written to" in page
    html = (trained.run / "report.html").read_text(encoding="utf-8")
    assert trained.plugin.metric in html
    if trained.plugin.name == "count_task":
        assert "count " in html
        assert 'data-layer="boxes"' not in html
    page = make_comparison([read_run(trained.run), read_run(trained.other)], None)
    rows = dict(list_headline_rows(page))
    (name,) = (name for name in rows if name.split(",")[0] == f"mine/{trained.plugin.metric}")
    first, second = rows[name]
    assert float(first) == pytest.approx(
        _read_value(trained.run, f"mine/{trained.plugin.metric}"), abs=1e-3
    )
    assert "(" in second
    out = trained.root / "comparison.html"
    told = call("compare", trained.run, trained.other, "--out", out)
    assert "pass --trust-plugins" in told
    told = call("compare", trained.run, trained.other, "--out", out, "--size", "64x96", TRUST)
    assert "latency, ms" in told
    told = call(
        "evaluate", trained.run, TRUST, "--data-root", trained.root, "--paired", trained.other
    )
    assert f"mine/{trained.plugin.metric}" in told
    card = HubUpload.from_run(trained.run, "lab/plugin").files[0].content
    assert isinstance(card, bytes)
    assert f"mine/{trained.plugin.metric}" in card.decode()
