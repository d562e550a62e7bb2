"""A small run folder, written by hand, whose names try to be markup."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap, Resampling
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.structures.run_lengths import encode_rectangle
from tests.support.many_classes import class_names

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted' & <b>bold</b> {{ 7 * 7 }}",
    "\u202eright to left \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "very_long_" + "name" * 30,
)
FILES = ("plain.png", "<img src=x onerror=alert(2)>.png", "'\"><svg onload=alert(3)>.png")

RECIPE = """\
name: tiny
data:
  root: {root}
  train: [{{annotations: train.json}}]
  val: [{{annotations: val.json}}]
backbone: {{name: resnet18, weights: none}}
heads:
  objects: {{type: faster_rcnn}}
  scene: {{type: unet, background: true}}
training: {{epochs: 2, batch_size: 2, learning_rate: 0.001}}
"""


@dataclass(frozen=True)
class MadeRun:
    """Where a run and its data were written."""

    folder: Path
    data: Path
    names: tuple[str, ...] = HOSTILE
    files: tuple[str, ...] = FILES

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluations" / "val"

    def add_masks(self) -> None:
        """Give every object of the predictions and of the annotations the left half of its box."""
        predictions = self.evaluation / "predictions/objects.json"
        results = json.loads(predictions.read_text())
        for entry in results:
            x, y, width, height = entry["bbox"]
            rle = encode_rectangle([x, y, x + width / 2, y + height], (60, 80))
            entry["segmentation"] = {"size": [60, 80], "counts": rle["counts"].decode()}
        predictions.write_text(json.dumps(results))
        data = shutil.copytree(self.data, self.folder.parent / "masked_data")
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(str(self.data), str(data)))
        coco = json.loads((data / "val.json").read_text())
        for annotation in coco["annotations"]:
            x, y, width, height = annotation["bbox"]
            polygon = [x, y, x + width / 2, y, x + width / 2, y + height, x, y + height]
            annotation["segmentation"] = [polygon]
        coco["info"]["annotated"].append("masks")
        (data / "val.json").write_text(json.dumps(coco))

    def write_resamples(self, noise: Mapping[str, float] | None = None) -> None:
        """Write resamples around the values of `metrics.json`; the draws are those of all runs.

        Args:
            noise: Metric -> standard deviation of noise of this run alone.
        """
        metrics = json.loads((self.evaluation / "metrics.json").read_text())["metrics"]
        shared = np.random.default_rng(0).normal(0, 0.05, 200)
        alone = np.random.default_rng(1).normal(0, 1, 200)
        values = {}
        for name, metric in metrics.items():
            by_key = {name: metric["value"]}
            by_key |= {f"{name}/{key}": v for key, v in metric.get("per_class", {}).items()}
            for key, value in by_key.items():
                if value is not None:
                    values[key] = value + shared + (noise or {}).get(name, 0.0) * alone
        digests = {name.partition("/")[0]: "same images" for name in metrics}
        resampling = Resampling(Bootstrap(200), "images", 1000, digests, values)
        resampling.save(self.evaluation / "resamples.npz")

    def edit(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Changes a JSON file of the evaluation."""
        path = self.evaluation / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))


def _write_data(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir()
    categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(names)]
    images, annotations = [], []
    for i, file in enumerate(FILES):
        pixels = np.full((60, 80, 3), 60 * i + 40, np.uint8)
        Image.fromarray(pixels).save(folder / file)
        semantic = np.zeros((60, 80), np.uint8)
        semantic[10:30, 10:40] = 10
        Image.fromarray(semantic).save(folder / f"map{i}.png")
        record = {"id": i + 1, "file_name": file, "height": 60, "width": 80}
        images.append({**record, "sem_seg_file_name": f"map{i}.png"})
        for j in range(2):
            box = [10 + 40 * j, 10, 30, 20]
            annotations.append(
                {
                    "id": 2 * i + j + 1,
                    "image_id": i + 1,
                    "category_id": 10 * (j + 1),
                    "bbox": box,
                    "area": 600,
                    "iscrowd": 0,
                }
            )
    info = {"annotated": ["boxes", "semantic"]}
    value = {
        "info": info,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(value))


def _metric(value: float | None, names: tuple[str, ...]) -> dict[str, Any]:
    pair = None if value is None else [value - 0.1, value + 0.1]
    return {
        "value": value,
        "interval": pair,
        "per_class": dict.fromkeys(names, value),
        "per_class_interval": dict.fromkeys(names, pair),
    }


def _details(names: tuple[str, ...]) -> dict[str, Any]:
    curve = {"recall": [0.0, 0.5, 1.0], "precision": [1.0, 0.8, 0.1]}
    size = len(names)
    return {
        "pr_curves": {**dict.fromkeys(names, curve), "all": curve},
        "confusion": {
            "labels": list(names),
            "matrix": [[9 if i == j else i + j for j in range(size)] for i in range(size)],
        },
        "error_types": {"localization": 0.05, names[0]: 0.01},
        "froc": {"false_positives": [0.125, 1, 8], "sensitivity": [0.5, 0.7, 0.9]},
        "reliability": {
            "confidence": [0.2, 0.8],
            "accuracy": [0.1, 0.9],
            "count": [10, 30],
        },
        "images": [
            {"image_id": i + 1, "quality": 0.3 * i, "surprise": 0.9 - 0.3 * i}
            for i in range(len(FILES))
        ],
        "notes": [f"A note on {names[0]}."],
    }


def _write_evaluation(folder: Path, data: Path, names: tuple[str, ...]) -> None:
    predictions = folder / "predictions"
    (predictions / "scene").mkdir(parents=True)
    metrics = {
        "objects/AP": _metric(0.5, names),
        "objects/AP50": _metric(0.75, names),
        "objects/AP_large": _metric(None, names),
        "scene/mIoU": _metric(0.625, ("background", *names)),
        "scene/HD95": {"value": 3.5, "interval": None, "unit": "px", "lower_is_better": True},
    }
    about = {
        "metrics": metrics,
        "protocol": {"objects": f"Counts {names[0]}.", "scene": "Pixels."},
        "evaluator": {"boxes": "hotcoco"},
        "checkpoint": "last",
        "images": len(FILES),
        "data": {str(data / "val.json"): "0123abcd"},
        "data_problems": {str(data / "val.json"): {}},
        "versions": {"torch": "9.9"},
        "hardware": {"cpu": "x86_64", "threads": 2, "gpu": None},
        "date": "2026-01-02 03:04:05",
    }
    (folder / "metrics.json").write_text(json.dumps(about))
    (folder / "details.json").write_text(json.dumps({"objects": _details(names)}))
    found = [
        {"image_id": 1, "category_id": 10, "bbox": [11, 10, 30, 20], "score": 0.9},
        {"image_id": 1, "category_id": 20, "bbox": [0, 40, 10, 10], "score": 0.7},
        {"image_id": 1, "category_id": 20, "bbox": [50, 10, 30, 20], "score": 0.3},
    ]
    (predictions / "objects.json").write_text(json.dumps(found))
    for file in FILES:
        semantic = np.zeros((60, 80), np.uint8)
        semantic[10:30, 10:30] = 10
        Image.fromarray(semantic).save(predictions / "scene" / f"{Path(file).stem}.png")


def _write_log(path: Path) -> None:
    events: list[dict[str, Any]] = [{"event": "start", "time": "2026-01-02T03:00:00", "threads": 2}]
    for update in range(4):
        losses = {"objects/rpn_box": 1.0 - 0.2 * update, "scene/dice": 0.5}
        step = {"update": update, "epoch": update // 2 + 1, "losses": losses}
        events.append({"event": "step", **step, "learning_rate": 0.001})
    for epoch in (1, 2):
        metrics = {"objects/AP": 0.2 * epoch, "scene/mIoU": None}
        events.append({"event": "evaluation", "epoch": epoch, "update": 2, "metrics": metrics})
    events.append({"event": "end", "time": "2026-01-02T03:01:30", "seconds": 60.0})
    path.write_text("".join(json.dumps(each) + "\n" for each in events))


def write_run(base: Path, names: tuple[str, ...]) -> MadeRun:
    """Write a finished run of two heads on classes of these names, and its data."""
    data, folder = base / "data", base / "run"
    _write_data(data, names)
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE.format(root=data))
    categories = CategoryMap(tuple(Category(10 * (i + 1), n) for i, n in enumerate(names)))
    labels = build_labels(load_recipe(folder / "recipe.yaml"), categories)
    (folder / "classes.json").write_text(json.dumps(labels.to_json()))
    _write_log(folder / "log.jsonl")
    _write_evaluation(folder / "evaluations" / "val", data, names)
    made = MadeRun(folder, data, names)
    made.write_resamples()
    return made


@pytest.fixture(scope="session")
def _model_run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return write_run(tmp_path_factory.mktemp("report"), HOSTILE)


@pytest.fixture(params=[80, 1200])
def many_classes(request: pytest.FixtureRequest, tmp_path: Path) -> MadeRun:
    """A finished run of many classes, most of which have no intervals, and which a note lists."""
    names = tuple(class_names(request.param))
    made = write_run(tmp_path, names)

    def drop_intervals(value: dict[str, Any]) -> None:
        for metric in value["metrics"].values():
            intervals = metric.get("per_class_interval", {})
            intervals.update(dict.fromkeys(list(intervals)[10:]))
        listed = ", ".join(f"objects/AP/{name}" for name in names)
        value["intervals"] = {"notes": ["Short.", f"without an interval: {listed}"]}

    made.edit("metrics.json", drop_intervals)
    return made


@pytest.fixture
def made(_model_run: MadeRun, tmp_path: Path) -> MadeRun:
    """A finished run of two heads on hostile names, free to be changed; its data is shared."""
    shutil.copytree(_model_run.folder, tmp_path / "run")
    return MadeRun(tmp_path / "run", _model_run.data)
