"""The evaluators' contract needs no torch, nor does judging results files."""

from __future__ import annotations

import subprocess
import sys

from resnet_tasks.structures.evaluation import select_headline


def test_evaluation_imports_no_torch() -> None:
    code = (
        "import sys, resnet_tasks.structures.evaluation, resnet_tasks.data.coco.read, "
        "resnet_tasks.data.datasets.ground_truth, "
        "resnet_tasks.data.coco.semantic_maps, resnet_tasks.evaluation.coco.detection, "
        "resnet_tasks.evaluation.segmentation, "
        "resnet_tasks.evaluation.results_files.evaluate_files; "
        "heavy = [m for m in ('torch', 'timm', 'albumentations', 'cv2') if m in sys.modules]; "
        "assert not heavy, heavy"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")


def test_known_metrics_come_first_and_plugins_show_all() -> None:
    assert select_headline(["AR_1", "AP50", "AP"]) == ["AP", "AP50"]
    assert select_headline(["MAE", "RMSE"]) == ["MAE", "RMSE"]
    assert select_headline([]) == []
