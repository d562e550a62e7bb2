"""`evaluate --truth --results --by`: the numbers of files with the images of one subgroup only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results

SCANNERS = ("A", "B", None)


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def write_pair(folder: Path, content: dict[str, Any], results: list[Any]) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    truth, detections = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps(content))
    detections.write_text(json.dumps(results))
    return truth, detections


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """75 images of two scanners and of an unknown one, with three objects each."""
    images = [
        {"id": i, "file_name": f"{i}.png", "height": 8, "width": 99, "attributes": {"v": scanner}}
        for i, scanner in enumerate(SCANNERS * 25)
    ]
    annotations = [
        {"id": 3 * i + k + 1, "image_id": i, "category_id": k % 2 + 1, "iscrowd": 0}
        | {"bbox": [30 * k, 1, 20, 6], "area": 120}
        for i in range(75)
        for k in range(3)
    ]
    categories = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "mitosis"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def results(content: dict[str, Any]) -> list[Any]:
    """All objects of scanner A, every other one of B, with a few false positives."""
    rng = np.random.default_rng(1)
    found = []
    for entry in content["annotations"]:
        image, scanner = entry["image_id"], SCANNERS[entry["image_id"] % 3]
        score = round(float(rng.uniform(0.5, 1)), 3)
        kept = {"image_id": image, "category_id": entry["category_id"], "score": score}
        if scanner != "B" or entry["id"] % 2:
            found.append({**kept, "bbox": [entry["bbox"][0] + int(rng.integers(4)), 1, 20, 6]})
        if entry["id"] % 5 == 0:
            found.append({**kept, "bbox": [45, 1, 9, 6]})
    return found


def test_boxes(content: dict[str, Any], results: list[Any], tmp_path: Path) -> None:
    truth, detections = write_pair(tmp_path / "all", content, results)
    words = ("--truth", truth, "--results", detections, "--by", "attributes.v", "--by", "size")
    code, text = run(*words, "--resamples", 100, "--out", tmp_path / "out")
    assert code == 0, text
    assert "AP by attributes.v, worst first" in text
    assert "note: 25 images have no 'attributes.v': subgroup 'unknown'" in text
    assert "warning: attributes.v 'B' (25 images) lies far below the other images: AP 0." in text
    assert "image:size: 75 images have the same value (792 pixels)" in text
    stored = json.loads((tmp_path / "out/metrics.json").read_text())["subgroups"]
    rows = {row["subgroup"]: row for row in stored["results"]}
    assert next(iter(rows)) == "B"
    assert rows.keys() == {"A", "B", "unknown", "medium"}
    assert [row["images"] for row in rows.values()] == [25, 25, 25, 75]
    for scanner in SCANNERS:
        images = [i for i in content["images"] if i["attributes"]["v"] == scanner]
        ids = {image["id"] for image in images}
        part = {
            **content,
            "images": images,
            "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
        }
        kept = [detection for detection in results if detection["image_id"] in ids]
        expected = evaluate_results(*write_pair(tmp_path / str(scanner), part, kept))
        row = rows[scanner or "unknown"]
        for name, metric in row["metrics"].items():
            assert metric["value"] == pytest.approx(expected[name].value, abs=1e-12)
        low, high = row["metrics"]["AP"]["interval"]
        assert low <= row["metrics"]["AP"]["value"] <= high
    assert rows["medium"]["comparison"] is None


@pytest.mark.parametrize("task", ["froc", "kitti"])
def test_other_protocols(
    content: dict[str, Any], results: list[Any], task: str, tmp_path: Path
) -> None:
    truth, detections = write_pair(tmp_path, content, results)
    words = ("--truth", truth, "--results", detections, "--task", task, "--resamples", 20)
    code, text = run(*words, "--by", "attributes.v")
    assert code == 0, text
    metric = {"froc": "CPM", "kitti": "KITTI_AP_moderate"}[task]
    assert f"{metric} by attributes.v, worst first" in text


def test_label_maps_by_brightness(tmp_path: Path) -> None:
    """Three dark, three medium and three bright images; the bright ones are predicted wrongly."""
    images = []
    for i, value in enumerate((10, 20, 30, 110, 120, 130, 210, 220, 230)):
        labels = np.full((4, 4), 1 + i % 2, np.uint8)
        for folder, array in (
            ("images", np.full((4, 4), value, np.uint8)),
            ("truth", labels),
            ("found", 3 - labels if value > 200 else labels),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
        record = {"id": i, "file_name": f"{i}.png", "height": 4, "width": 4}
        images.append({**record, "sem_seg_file_name": f"truth/{i}.png"})
    categories = [{"id": 1, "name": "soil"}, {"id": 2, "name": "sky"}]
    truth, _ = write_pair(tmp_path, {"images": images, "categories": categories}, [])
    words = ("--truth", truth, "--results", tmp_path / "found", "--task", "semantic")
    code, text = run(*words, "--by", "brightness")
    assert code == 2
    assert "image:brightness reads the images, but 9 of 9 are missing" in text
    assert "set the image folder with --images" in text
    found = tmp_path / "found" / "truth"
    found.mkdir()
    for path in (tmp_path / "found").glob("*.png"):
        path.rename(found / path.name)
    out = tmp_path / "out"
    code, text = run(*words, "--by", "brightness", "--images", tmp_path / "images", "--out", out)
    assert code == 0, text
    stored = json.loads((out / "metrics.json").read_text())["subgroups"]
    values = {row["subgroup"]: row["metrics"]["mIoU"]["value"] for row in stored["results"]}
    assert values == {"bright": 0.0, "dark": 1.0, "medium": 1.0}
    assert "3 subgroups have no interval: fewer than 10 images" in text


def test_images_without_by_is_a_mistake(
    content: dict[str, Any], results: list[Any], tmp_path: Path
) -> None:
    truth, detections = write_pair(tmp_path, content, results)
    code, text = run("--truth", truth, "--results", detections, "--images", tmp_path)
    assert code != 0
    assert "--images with --truth is the image folder of --by; add --by KEY" in text
