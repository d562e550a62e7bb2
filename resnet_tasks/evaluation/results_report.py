"""A judged results file as files: its numbers with intervals, and all they were made from."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import strftime
from typing import Any

from resnet_tasks.evaluation.intervals import (
    LEAST_UNITS,
    Bootstrap,
    Units,
    caution_about,
    resampled_values,
    with_intervals,
)
from resnet_tasks.evaluation.judged import JudgedResults
from resnet_tasks.evaluation.reporting import file_sha256, metric_json
from resnet_tasks.metrics import Detailed, Resampled
from resnet_tasks.whole_files import write_json


def add_intervals(judged: JudgedResults, bootstrap: Bootstrap) -> JudgedResults:
    """The same results with 95 % intervals, or a note on why there are none."""
    if bootstrap.resamples == 0:
        return judged
    evaluator = judged.make_evaluator()
    if not isinstance(evaluator, Resampled):
        note = f"{type(evaluator).__name__} cannot resample: no intervals"
        return replace(judged, notes=(*judged.notes, note))
    units = Units.of(evaluator.picture_ids, judged.groups)
    if units.number < LEAST_UNITS:
        note = f"only {units.number} {units.over}, too few for intervals ({LEAST_UNITS} at least)"
        return replace(judged, notes=(*judged.notes, note))
    values = resampled_values(evaluator, units, bootstrap)
    drawn = f"{bootstrap.resamples} bootstrap resamples over {units.number} {units.over}"
    notes = [f"intervals: 95 %, {drawn}", caution_about(units)]
    return replace(
        judged,
        metrics=with_intervals(judged.metrics, values),
        notes=(*judged.notes, *filter(None, notes)),
        make_evaluator=lambda: evaluator,
    )


def write_report(
    judged: JudgedResults, folder: Path, *, truth: Path, results: Path, task: str
) -> None:
    """Writes `metrics.json` and, where the evaluator has them, `details.json`.

    Args:
        judged: What to write.
        folder: Is made where needed.
        truth: The annotation file.
        results: The results file, or the folder of label maps.
        task: `box`, `mask` or `semantic`.
    """
    evaluator = judged.make_evaluator()
    if isinstance(evaluator, Detailed):
        write_json(folder / "details.json", evaluator.details())
    write_json(folder / "metrics.json", summary(judged, truth=truth, results=results, task=task))


def summary(judged: JudgedResults, *, truth: Path, results: Path, task: str) -> dict[str, Any]:
    """The numbers and all they were made from, as JSON values."""
    names = ("hotcoco", "pycocotools", "numpy")
    return {
        "task": task,
        "metrics": {name: metric_json(each) for name, each in judged.metrics.items()},
        "protocol": judged.protocol,
        "evaluator": judged.made_by,
        "data": {str(truth): file_sha256(truth), str(results): _digest(results)},
        "notes": list(judged.notes),
        "versions": {
            "resnet-tasks": version("resnet-tasks"),
            "python": platform.python_version(),
            **{name: version(name) for name in names},
        },
        "date": strftime("%Y-%m-%d %H:%M:%S"),
    }


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder that of its files' names and digests, sorted."""
    if not path.is_dir():
        return file_sha256(path)
    whole = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        whole.update(f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n".encode())
    return whole.hexdigest()
