"""The benchmark's set is the same at every call, and both evaluators agree on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import coco_evaluation


def test_set_is_the_same_at_every_call(tmp_path: Path) -> None:
    texts = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files = coco_evaluation.generate_dataset(
            tmp_path / name, num_images=20, num_objects=90, num_detections=400
        )
        texts.append([file.read_text() for file in files])
    assert texts[0] == texts[1]
    results = json.loads(texts[0][1])
    assert len(results) == 400
    assert all(min(each["bbox"]) >= 0 for each in results)


@pytest.mark.slow
def test_both_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    options = ["--images", "40", "--objects", "200", "--detections", "900", "--repeats", "1"]
    options += ["--resamples", "20", "--peer-repeats", "1", "--out", str(out)]
    options += ["--masks", "200", "--cases", "5"]
    coco_evaluation.main(options)
    report = json.loads(out.read_text())
    assert report["greatest_difference"] <= 1e-12
    assert report["numbers"]["AP50"] > 0.1
    low, high = report["intervals"]["found"][0]
    assert low < report["numbers"]["AP"] < high
    assert {"hotcoco", "pycocotools"} <= set(report["versions"])
    assert report["masks"]["number"] == 200
    assert report["masks"]["hotcoco"] > 0
    assert report["masks"]["ours"] > 0
    for task in ("box", "mask"):
        tools = report["side_by_side"][task]
        assert {"hotcoco", "pycocotools", "resnet-tasks"} <= set(tools["time"])
        assert tools["time"]["resnet-tasks"]["ratio"] == 1
        assert tools["time"]["hotcoco"]["greatest_difference"] <= 1e-12
        assert tools["cases"]["hotcoco"] == dict.fromkeys(
            ("cases", "numbers", "precision", "recall", "scores"), 5
        ) | {"failed": 0}
        assert tools["cases"]["resnet-tasks"] == {"cases": 5, "failed": 0, "numbers": 5}
    out = capsys.readouterr().out
    assert "times faster" in out
    assert "200 masks, whole process: CPU" in out
    assert "equal on 5 cases: numbers 5, precision 5, recall 5, scores 5" in out
