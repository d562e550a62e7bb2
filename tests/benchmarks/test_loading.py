"""The benchmark's set is the same at every call, and it measures what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import loading
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError


def test_set_is_the_same_at_every_call_and_clean(tmp_path: Path) -> None:
    paths = [
        loading.generate_dataset(tmp_path / name, num_images=20, num_objects=90)
        for name in ("one", "two")
    ]
    assert paths[0].read_text() == paths[1].read_text()
    coco = read_coco(paths[0])
    assert (len(coco.images), int(coco.count_objects().sum())) == (20, 90)
    assert coco.problems == ()
    coco.require_files()
    masks = [each.segmentation for found in coco.annotations.values() for each in found]
    assert all(masks)


def test_runs_that_saw_other_objects_are_refused() -> None:
    good = {"objects": 90, "seen": 30}
    loading.require_all_objects([good, good], 90)
    for bad in ({"objects": 89, "seen": 30}, {"objects": 90, "seen": 29}):
        with pytest.raises(DataError, match=r"90 were generated, of which the first run had 30"):
            loading.require_all_objects([good, bad], 90)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory by process is read from /proc")
def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    options = ["--images", "20000", "--objects", "140000", "--samples", "500"]
    loading.main([*options, "--workers", "0", "2", "--out", str(out), "--folder", str(tmp_path)])
    report = json.loads(out.read_text())
    assert [row["workers"] for row in report["by_workers"]] == [0, 2]
    assert [len(row["big"]["own"]) for row in report["by_workers"]] == [1, 3]
    assert report["cold"]["objects"] == 140_000
    assert report["growth"] <= loading.LIMIT
    assert "times with the most workers" in capsys.readouterr().out
