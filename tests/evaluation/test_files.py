"""Results files of any tool give pycocotools' numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.files import evaluate_results

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
NAMES += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_real_pictures_and_jittered_results(
    shared_data: Path, tmp_path: Path, backend: str
) -> None:
    file = shared_data / "coco_tiny/annotations/instances_val2017.json"
    truth = COCO(str(file))
    rng = np.random.default_rng(0)
    results = [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "bbox": (np.asarray(each["bbox"]) * rng.uniform(0.8, 1.2, 4)).tolist(),
            "score": float(rng.uniform()),
        }
        for each in truth.dataset["annotations"]
    ]
    written = tmp_path / "results.json"
    written.write_text(json.dumps(results))
    referee = COCOeval(truth, truth.loadRes(str(written)), "bbox")
    referee.evaluate()
    referee.accumulate()
    referee.summarize()
    metrics = evaluate_results(file, written, backend=backend)
    assert [metrics[name].value for name in NAMES] == pytest.approx(list(referee.stats), abs=1e-12)
    assert 0.05 < referee.stats[0] < 0.95


def test_wrong_entries_are_named(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "coco_tiny/annotations/instances_val2017.json"
    written = tmp_path / "results.json"
    written.write_text(
        json.dumps([{"image_id": -5, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}])
    )
    with pytest.raises(DataError, match="entry 0 has image_id -5"):
        evaluate_results(file, written)
