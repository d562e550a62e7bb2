"""COCO evaluators side by side in one process: CPU time, and equality with pycocotools.

Every tool reads the same two files and computes the 12 numbers, in turns. CPU time includes all
threads, and no imports. Small random datasets with equal scores, crowds, unused classes and images
without objects show on how many of them the tables of a tool have the same bits as pycocotools'.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results

PRECISIONS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
NAMES = (*PRECISIONS, *RECALLS)
REFERENCE, OURS = "pycocotools", "resnet-tasks"
TABLES = ("precision", "recall", "scores")
IOU_TYPES = {"box": "bbox", "mask": "segm"}
_LIBRARIES = {
    REFERENCE: ("pycocotools.coco:COCO", "pycocotools.cocoeval:COCOeval"),
    "hotcoco": ("hotcoco:COCO", "hotcoco:COCOeval"),
    "faster-coco-eval": ("faster_coco_eval:COCO", "faster_coco_eval:COCOeval_faster"),
    "ultrafast-pycocotools": ("ultrafast_pycocotools:COCO", "ultrafast_pycocotools:COCOeval"),
}


@dataclass(frozen=True)
class Outcome:
    """What a tool computed.

    Attributes:
        numbers: `(12,)` in the order of `NAMES`, -1 where undefined.
        tables: Table name -> array; empty for this package.
    """

    numbers: list[float]
    tables: Mapping[str, np.ndarray[Any, Any]]


Tool = Callable[[Path, Path, str], Outcome]
"""Evaluation of an annotation file and a results file by `box` or `mask`."""


def find_tools() -> dict[str, Tool]:
    """Return the installed tools by name, pycocotools first."""
    tools: dict[str, Tool] = {}
    for name, paths in _LIBRARIES.items():
        with contextlib.suppress(ModuleNotFoundError):
            tools[name] = _build_tool(*(_load(path) for path in paths))
    return {**tools, OURS: _run_ours}


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


def _build_tool(coco: Any, evaluator: Any) -> Tool:
    def run(truth: Path, results: Path, task: str) -> Outcome:
        with contextlib.redirect_stdout(io.StringIO()):
            expected = coco(str(truth))
            evaluation = evaluator(expected, expected.loadRes(str(results)), IOU_TYPES[task])
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        tables = {name: np.asarray(evaluation.eval[name]) for name in TABLES}
        return Outcome([float(number) for number in list(evaluation.stats)[: len(NAMES)]], tables)

    return run


def _run_ours(truth: Path, results: Path, task: str) -> Outcome:
    metrics = evaluate_results(truth, results, task=task)
    values = [metrics[name].value for name in NAMES]
    return Outcome([-1.0 if value is None else value for value in values], {})


def time_tools(
    truth: Path, results: Path, task: str, *, repeats: int, reference_repeats: int
) -> dict[str, dict[str, Any]]:
    """Run all tools in turns.

    Args:
        truth: Path of the annotation file.
        results: Path of the results file.
        task: `box` or `mask`.
        repeats: Number of runs of each tool.
        reference_repeats: Number of runs of pycocotools.

    Returns:
        Tool -> `cpu_seconds` of every run, their `median`, the `ratio` to that of this package, and
        the `greatest_difference` of the 12 numbers from pycocotools'.

    Raises:
        DataError: If the numbers of this package differ by more than 1e-12.
    """
    tools = find_tools()
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    numbers: dict[str, list[float]] = {}
    for turn in range(max(repeats, reference_repeats)):
        for name, run in tools.items():
            if turn >= (reference_repeats if name == REFERENCE else repeats):
                continue
            begin = time.process_time()
            numbers[name] = run(truth, results, task).numbers
            seconds[name].append(time.process_time() - begin)
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    report: dict[str, dict[str, Any]] = {
        name: {
            "cpu_seconds": runs,
            "median": medians[name],
            "ratio": medians[name] / medians[OURS],
            "greatest_difference": float(
                np.abs(np.subtract(numbers[name], numbers[REFERENCE])).max()
            ),
        }
        for name, runs in seconds.items()
    }
    difference = report[OURS]["greatest_difference"]
    if difference > 1e-12:
        raise DataError(f"the 12 numbers differ by up to {difference:.3g}; allowed: 1e-12")
    return report


def compare_cases(task: str, number: int) -> dict[str, dict[str, int]]:
    """Count the random datasets on which each tool has the bits of pycocotools.

    Args:
        task: `box` or `mask`.
        number: Number of datasets.

    Returns:
        Tool -> `cases`, `failed` (the tool raised an error), `numbers` (12 numbers at most 1e-12
        apart), and for libraries `precision`, `recall`, `scores` (tables with equal bits).
    """
    tools = find_tools()
    names = ("cases", "failed", "numbers", *TABLES)
    counts = {name: dict.fromkeys(names, 0) for name in tools if name != REFERENCE}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(number):
            truth, results = write_case(Path(folder), task, seed)
            expected = tools[REFERENCE](truth, results, task)
            for name, count in counts.items():
                count["cases"] += 1
                try:
                    outcome = tools[name](truth, results, task)
                except Exception:  # noqa: BLE001 - whatever another library raises is counted
                    count["failed"] += 1
                    continue
                count["numbers"] += np.allclose(
                    outcome.numbers, expected.numbers, rtol=0, atol=1e-12
                )
                for table, values in outcome.tables.items():
                    count[table] += np.array_equal(values, expected.tables[table])
    return {
        name: {key: int(value) for key, value in count.items() if name != OURS or key not in TABLES}
        for name, count in counts.items()
    }


def write_case(folder: Path, task: str, seed: int) -> tuple[Path, Path]:
    """Write a small random dataset with many equal scores and overlaps.

    Returns:
        Paths of the annotation file and of the results file.
    """
    rng = np.random.default_rng(seed)
    height, width = 120, 160
    image_ids = np.sort(rng.choice(1000, int(rng.integers(1, 8)), replace=False)) + 1
    category_ids = np.sort(rng.choice(90, int(rng.integers(1, 5)), replace=False)) + 1
    number = int(rng.integers(1, 25))
    low = rng.integers(0, 5, (number, 2)) * 20
    boxes = np.concatenate((low, rng.integers(1, 4, (number, 2)) * 20), axis=1)
    owners = rng.choice(image_ids, number)
    labels = rng.choice(category_ids, number)
    annotations = [
        {
            "id": i + 1,
            "image_id": int(owners[i]),
            "category_id": int(labels[i]),
            "iscrowd": int(rng.random() < 0.1),
            "area": float(boxes[i, 2] * boxes[i, 3]) * 0.8,
            **_describe_shape(boxes[i], task, height, width),
        }
        for i in range(number)
    ]
    source = rng.integers(0, number, int(rng.integers(1, 80)))
    moved = boxes[source] + rng.integers(-1, 2, (len(source), 4)) * 4
    results = [
        {
            "image_id": int(owners[i] if rng.random() < 0.8 else rng.choice(image_ids)),
            "category_id": int(labels[i] if rng.random() < 0.8 else rng.choice(category_ids)),
            "score": round(float(rng.random()), 1),
            **_describe_shape(box, task, height, width),
        }
        for i, box in zip(source, np.maximum(moved, (0, 0, 4, 4)), strict=True)
    ]
    if task == "mask":
        for entry in results:
            del entry["bbox"]
    content = {
        "info": {},
        "images": [
            {"id": int(i), "file_name": f"{i}.png", "height": height, "width": width}
            for i in image_ids
        ],
        "annotations": annotations,
        "categories": [{"id": int(i), "name": f"class {i}"} for i in category_ids],
    }
    paths = folder / "truth.json", folder / "results.json"
    for path, value in zip(paths, (content, results), strict=True):
        path.write_text(json.dumps(value), encoding="utf-8")
    return paths


def _describe_shape(
    box: np.ndarray[Any, Any], task: str, height: int, width: int
) -> dict[str, Any]:
    """Return the fields of a box, and for `mask` those of an ellipse inside it."""
    x, y, w, h = box.tolist()
    fields: dict[str, Any] = {"bbox": [float(x), float(y), float(w), float(h)]}
    if task == "mask":
        fields["segmentation"] = encode_ellipse((x, y, w, h), (height, width))
    return fields


def encode_ellipse(box: tuple[float, ...], size: tuple[int, int]) -> dict[str, Any]:
    """Return the run lengths of the ellipse that fills a box (xywh, pixels), as JSON values."""
    x, y, w, h = box
    rows = ((np.arange(size[0]) + 0.5 - y - h / 2) / (h / 2)) ** 2
    columns = ((np.arange(size[1]) + 0.5 - x - w / 2) / (w / 2)) ** 2
    inside = np.asfortranarray(rows[:, None] + columns[None] <= 1, np.uint8)
    counts = coco_mask.encode(inside)["counts"]
    return {"size": list(size), "counts": counts.decode("ascii")}


def format_tools(report: Mapping[str, Any]) -> list[str]:
    """Return one line per tool and kind: CPU seconds, ratio, and equality with pycocotools."""
    lines = []
    for task, tools in report.items():
        lines.append(f"CPU seconds by {task}, in one process without imports:")
        for name, row in sorted(tools["time"].items(), key=lambda item: item[1]["median"]):
            equal = tools["cases"].get(name)
            note = ""
            if equal is not None:
                tables = [f"{table} {equal[table]}" for table in TABLES if table in equal]
                parts = ", ".join([f"numbers {equal['numbers']}", *tables])
                note = f"  equal on {equal['cases']} cases: {parts}"
                note += f", failed {equal['failed']}" if equal["failed"] else ""
            lines.append(f"  {name:21} {row['median']:7.2f} {row['ratio']:6.2f}x{note}")
    return lines
