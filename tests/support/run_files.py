"""A valid example of every file of a run folder, and the function that commands read it with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import torch
from safetensors.torch import save_file

from resnet_tasks.assemble.labels import Labels, build_labels, create_placeholder_categories
from resnet_tasks.assemble.run_directory import RunDirectory
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap, Resampling
from resnet_tasks.exported.manifest import ExportedHead, Manifest, PixelRange
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.inference.streaming.stream_journal import (
    BatchResult,
    FrameResult,
    StreamJournal,
)
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.report.history import read_history
from resnet_tasks.report.run_view import read_run
from resnet_tasks.run_folder import files
from resnet_tasks.run_folder.checkpoint import (
    load_checkpoint,
    load_weights_file,
    save_checkpoint,
)
from resnet_tasks.run_folder.files import RunFile
from resnet_tasks.run_folder.read import read_list, read_object
from resnet_tasks.runs.inference_options import read_calibration
from resnet_tasks.runs.operating_points import load_thresholds
from resnet_tasks.runs.paired_comparison import SavedEvaluation
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.training.data_changes import DataRecord
from resnet_tasks.training.guards.recorded_step import RecordedStep, read_replay
from resnet_tasks.training.guards.unreadable_images import UnreadableImages
from resnet_tasks.training.logging.trackers import TrackedRun

TRAINING_STATE: dict[str, Any] = {
    "position": {"epoch": 1},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []},
    "batches_per_epoch": 2,
    "threads": 1,
    "settings": {},
    "scaler": {},
}
POINT = {
    "threshold": 0.5,
    "sensitivity": 1.0,
    "precision": 1.0,
    "f1": 1.0,
    "false_positives": 0.0,
    "objects": 3,
}
METRICS = {"metrics": {"objects/AP": {"value": 0.5, "interval": [0.4, 0.6], "per_class": {"a": 1}}}}
EVENTS = [
    {"event": "start", "format_version": 1, "weights": None},
    {"event": "step", "update": 0, "epoch": 1, "losses": {"a/x": 1.0}, "learning_rate": 0.1},
    {"event": "end", "seconds": 1.0},
]
SETTINGS = {"digest": "x"}
Example = tuple[RunFile, str, Callable[[Path], Any], Callable[[Path], Any]]


@cache
def _prepare_run() -> tuple[Recipe, Labels]:
    recipe = load_recipe("quickstart")
    return recipe, build_labels(recipe, create_placeholder_categories(recipe))


def write_run(folder: Path) -> None:
    """Write recipe, classes and an evaluation."""
    RunDirectory.create(folder, *_prepare_run())
    write_json(folder / "evaluations/val/metrics.json", METRICS)
    write_json(folder / "evaluations/val/details.json", {"objects": {"notes": ["x"]}})


def _write_checkpoint(folder: Path) -> None:
    weights = {"a": torch.arange(8.0)}
    save_checkpoint(folder / "checkpoints/last", model=weights, ema=weights, state=TRAINING_STATE)


def _write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def _write_operating_point(folder: Path) -> None:
    _write_checkpoint(folder)
    weights = compute_sha256(folder / "checkpoints/last/ema.safetensors")
    value = {"heads": {"objects": {"all": POINT, "a": None}}, "weights": weights}
    value |= {"checkpoint": "last", "date": "today"}
    write_json(folder / "operating_point.json", files.OPERATING_POINT.add_version(value))


def _read_operating_point(folder: Path) -> None:
    run = SimpleNamespace(
        directory=folder,
        classes={"objects": ("a",)},
        find_checkpoint=lambda name: folder / "checkpoints" / name,
    )
    load_thresholds(cast("Run", run))


def _write_calibration(folder: Path) -> None:
    scaling = {"field": "scores", "slope": 1.0, "intercept": 0.0}
    value = {"heads": {"objects": scaling}, "weights": "x", "checkpoint": "last"}
    write_json(folder / "calibration.json", files.CALIBRATION.add_version(value))


def _write_resamples(folder: Path) -> None:
    write_run(folder)
    values = {"objects/AP": np.arange(4.0)}
    resampling = Resampling(Bootstrap(4), "images", 3, {"objects": "d"}, values)
    resampling.save(folder / "evaluations/val/resamples.npz")


def _write_results(folder: Path) -> None:
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}
    write_json(folder / "evaluations/val/predictions/objects.json", [entry])


def _write_data(folder: Path) -> None:
    DataRecord(folder, {"train": []}, folder, Console(quiet=True)).write()


def _read_data(folder: Path) -> None:
    DataRecord(folder, {"train": []}, folder, Console(quiet=True)).require_same()


def _write_replay(folder: Path) -> None:
    geometry = {"original_size": [4, 4], "input_size": [4, 4], "scale": [1, 1], "offset": [0, 0]}
    batch = {"geometries": [geometry], "image_ids": [1], "file_names": ["a.png"], "seeds": [0]}
    step = {**asdict(RecordedStep(3, 0, "fp32", True, 1)), "batches": [batch]}
    write_json(folder / "replays/update-3/replay.json", files.REPLAY.add_version(step))
    images = torch.zeros(1, 3, 4, 4)
    save_file({"0.images": images}, folder / "replays/update-3/batch.safetensors")
    save_file({"a": images}, folder / "replays/update-3/model.safetensors")


def write_export(folder: Path, kind: Literal["onnx", "openvino"] = "onnx") -> None:
    """Write `export.json` of a model with the detection head `objects`."""
    heads = {"objects": ExportedHead("faster_rcnn", "detection", ("a",), (1,), 0.05)}
    mean = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    categories = ({"id": 1, "name": "a"},)
    Manifest(kind, heads, categories, Preparation(), PixelRange(0, 255), mean).write(folder)


def _write_stream(folder: Path) -> None:
    journal = StreamJournal(folder, SETTINGS)
    journal.add(BatchResult(0, 0, (FrameResult("a.png", size=(4, 6)),)))
    journal.add(BatchResult(1, 0, (FrameResult("b.png", size=(4, 6)),)))
    journal.close()


def _read_stream(folder: Path) -> None:
    StreamJournal(folder, SETTINGS).close()


def _read_unreadable(folder: Path) -> None:
    UnreadableImages(folder, limit=3, total=9, writes=False).load()


def _write_unreadable(folder: Path) -> None:
    line = {"image_id": 1, "file": "a.png", "reason": "truncated", "update": 0, "epoch": 1}
    _write_lines(folder / "unreadable_images.jsonl", [line, {**line, "image_id": 2}])


EXAMPLES: tuple[Example, ...] = (
    (files.RECIPE, "recipe.yaml", write_run, RunDirectory.read),
    (files.CLASSES, "classes.json", write_run, RunDirectory.read),
    (files.DATA, "data.json", _write_data, _read_data),
    (
        files.LOG,
        "log.jsonl",
        lambda run: _write_lines(run / "log.jsonl", EVENTS),
        lambda run: read_history(run / "log.jsonl"),
    ),
    (files.UNREADABLE_IMAGES, "unreadable_images.jsonl", _write_unreadable, _read_unreadable),
    (
        files.WEIGHTS,
        "checkpoints/last/model.safetensors",
        _write_checkpoint,
        lambda run: load_checkpoint(run / "checkpoints/last"),
    ),
    (
        files.AVERAGED_WEIGHTS,
        "checkpoints/last/ema.safetensors",
        _write_checkpoint,
        lambda run: load_weights_file(run / "checkpoints/last/ema.safetensors"),
    ),
    (
        files.STATE,
        "checkpoints/last/state.pt",
        _write_checkpoint,
        lambda run: load_checkpoint(run / "checkpoints/last"),
    ),
    (
        files.OPERATING_POINT,
        "operating_point.json",
        _write_operating_point,
        _read_operating_point,
    ),
    (
        files.CALIBRATION,
        "calibration.json",
        _write_calibration,
        lambda run: read_calibration(run, "x", ["objects"]),
    ),
    (files.METRICS, "evaluations/val/metrics.json", write_run, read_run),
    (files.DETAILS, "evaluations/val/details.json", write_run, read_run),
    (
        files.RESAMPLES,
        "evaluations/val/resamples.npz",
        _write_resamples,
        lambda run: SavedEvaluation.read(run / "evaluations/val"),
    ),
    (
        files.RESULTS,
        "evaluations/val/predictions/objects.json",
        _write_results,
        lambda run: read_list(run / "evaluations/val/predictions/objects.json", files.RESULTS),
    ),
    (
        files.REPLAY,
        "replays/update-3/replay.json",
        _write_replay,
        lambda run: read_replay(run / "replays/update-3"),
    ),
    (
        files.REPLAY_BATCH,
        "replays/update-3/batch.safetensors",
        _write_replay,
        lambda run: read_replay(run / "replays/update-3"),
    ),
    (
        files.REPLAY_WEIGHTS,
        "replays/update-3/model.safetensors",
        _write_replay,
        lambda run: load_weights_file(
            run / "replays/update-3/model.safetensors", files.REPLAY_WEIGHTS
        ),
    ),
    (
        files.TRACKERS,
        "trackers.json",
        lambda run: TrackedRun(run, "run", {}, 0).save_id("wandb", "abc"),
        lambda run: TrackedRun(run, "run", {}, 0).find_id("wandb"),
    ),
    (files.EXPORT, "export.json", write_export, Manifest.read),
    (files.STREAM_SETTINGS, "stream.json", _write_stream, _read_stream),
    (files.STREAM_LINES, "stream.jsonl", _write_stream, _read_stream),
    (
        files.REQUESTED,
        "asked.json",
        lambda run: write_json(run / "asked.json", {"seed-0": {"name": "x"}}),
        lambda run: read_object(run / "asked.json", files.REQUESTED),
    ),
)
"""Description, path, function that writes a valid file, and function that reads it."""
