"""Results and truths with random damage: judged, or refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results_file
from tests.support.damage import FULL, MANY, damaged_json, damaged_png, outcomes, told

PACKED = {"size": [30, 40], "counts": "P16h00000000000000Pm0"}


def truth() -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 8, 6], "area": 48}
    annotation |= {"iscrowd": 0, "segmentation": [[1, 2, 9, 2, 9, 8]]}
    image = {"id": 7, "file_name": "a.png", "height": 30, "width": 40, "sem_seg_file_name": "a.png"}
    return {
        "images": [image],
        "annotations": [annotation, annotation | {"id": 2, "segmentation": PACKED, "iscrowd": 1}],
        "categories": [{"id": 2, "name": "car"}, {"id": 5, "name": "bus"}],
    }


def results() -> list[dict[str, Any]]:
    entry = {"image_id": 7, "category_id": 2, "bbox": [1, 2, 8, 6.5], "score": 0.75}
    return [entry | {"segmentation": PACKED}, entry | {"score": 1e-3, "segmentation": PACKED}]


def label_map(file: Path) -> bytes:
    Image.fromarray(np.full((30, 40), 2, np.uint8)).save(file)
    return file.read_bytes()


@pytest.mark.parametrize("damaged", ["results", "truth"])
@pytest.mark.parametrize(
    ("task", "backend"), [("box", "hotcoco"), ("box", "pycocotools"), ("mask", "hotcoco")]
)
@pytest.mark.parametrize("cases", [200, pytest.param(MANY, marks=FULL)])
def test_damaged_objects_are_judged_or_refused(
    damaged: str,
    task: str,
    backend: str,
    cases: int,
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    entries = results()
    if task == "box":
        for each in entries:
            del each["segmentation"]
    contents: dict[str, Any] = {"truth": truth(), "results": entries}
    files = {name: tmp_path / f"{name}.json" for name in contents}
    for name, file in files.items():
        file.write_text(json.dumps(contents[name]))

    def judged(data: bytes) -> None:
        files[damaged].write_bytes(data)
        evaluate_results_file(files["truth"], files["results"], task=task, backend=backend)

    good = files[damaged].read_bytes()
    judged(good)
    name = f"{damaged} of {task}, {backend}"
    found = outcomes(good, judged, damaged_json, cases, name)
    if cases == MANY:
        tell(told(name, found))


@pytest.mark.parametrize("cases", [200, pytest.param(MANY, marks=FULL)])
def test_damaged_label_maps_are_judged_or_refused(
    cases: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "truth.json").write_text(json.dumps(truth()))
    label_map(tmp_path / "a.png")
    good = label_map(tmp_path / "results/a.png")

    def judged(data: bytes) -> None:
        (tmp_path / "results/a.png").write_bytes(data)
        evaluate_results_file(tmp_path / "truth.json", tmp_path / "results", task="semantic")

    judged(good)
    found = outcomes(good, judged, damaged_png, cases, "label maps")
    if cases == MANY:
        tell(told("results of pixels", found))
