"""Results and truths with random damage: judged, or refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results_file
from tests.support.coco_contents import build_results, build_truth
from tests.support.damage import damaged_json, damaged_png, outcomes


def label_map(file: Path) -> bytes:
    Image.fromarray(np.full((30, 40), 2, np.uint8)).save(file)
    return file.read_bytes()


@pytest.mark.parametrize("damaged", ["results", "truth"])
@pytest.mark.parametrize(
    ("task", "backend"), [("box", "hotcoco"), ("box", "pycocotools"), ("mask", "hotcoco")]
)
def test_damaged_objects_are_judged_or_refused(
    damaged: str,
    task: str,
    backend: str,
    tmp_path: Path,
) -> None:
    entries = build_results()
    if task == "box":
        for each in entries:
            del each["segmentation"]
    contents: dict[str, Any] = {"truth": build_truth(), "results": entries}
    files = {name: tmp_path / f"{name}.json" for name in contents}
    for name, file in files.items():
        file.write_text(json.dumps(contents[name]))

    def judged(data: bytes) -> None:
        files[damaged].write_bytes(data)
        evaluate_results_file(files["truth"], files["results"], task=task, backend=backend)

    good = files[damaged].read_bytes()
    judged(good)
    name = f"{damaged} of {task}, {backend}"
    outcomes(good, judged, damaged_json, 200, name)


def test_damaged_label_maps_are_judged_or_refused(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "truth.json").write_text(json.dumps(build_truth()))
    label_map(tmp_path / "a.png")
    good = label_map(tmp_path / "results/a.png")

    def judged(data: bytes) -> None:
        (tmp_path / "results/a.png").write_bytes(data)
        evaluate_results_file(tmp_path / "truth.json", tmp_path / "results", task="semantic")

    judged(good)
    outcomes(good, judged, damaged_png, 200, "label maps")


def test_names_that_no_file_can_have_are_missing(tmp_path: Path) -> None:
    content = build_truth()
    content["images"][0]["sem_seg_file_name"] = "a" * 300
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results").mkdir()
    with pytest.raises(DataError, match="1 of 1 label maps are missing, the first is aaa"):
        evaluate_results_file(tmp_path / "truth.json", tmp_path / "results", task="semantic")
