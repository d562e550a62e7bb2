"""Report of an evaluated results file: metrics with intervals, sources and versions."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from time import strftime
from typing import Any

from resnet_tasks.evaluation.metric_tables import metric_to_json
from resnet_tasks.evaluation.results_files.file_evaluation import FileEvaluation
from resnet_tasks.evaluation.uncertainty.bootstrap import (
    LEAST_UNITS,
    Bootstrap,
    ResamplingUnits,
    attach_intervals,
    describe_few_units,
    resample_metrics,
)
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.number_formats import Count
from resnet_tasks.runtime.versions import find_versions
from resnet_tasks.structures.evaluation import DetailedEvaluator, ResamplableEvaluator


def add_intervals(evaluation: FileEvaluation, bootstrap: Bootstrap) -> FileEvaluation:
    """Add 95 % intervals to the results, or a note on why there are none."""
    if bootstrap.resamples == 0:
        return evaluation
    evaluator = evaluation.make_evaluator()
    if not isinstance(evaluator, ResamplableEvaluator):
        note = f"no intervals, because {type(evaluator).__name__} does not support resampling"
        return replace(evaluation, notes=(*evaluation.notes, note))
    units = ResamplingUnits.from_image_ids(evaluator.image_ids, evaluation.groups)
    if units.number < LEAST_UNITS:
        note = f"only {units}, too few for intervals (at least {LEAST_UNITS} needed)"
        return replace(evaluation, notes=(*evaluation.notes, note))
    values = resample_metrics(evaluator, units, bootstrap)
    method = f"{Count(bootstrap.resamples):half sample} of {units}"
    notes = [f"intervals: 95 %, {method}", describe_few_units(units)]
    return replace(
        evaluation,
        metrics=attach_intervals(evaluation.metrics, values, units.number),
        notes=(*evaluation.notes, *filter(None, notes)),
        make_evaluator=lambda: evaluator,
    )


def write_report(
    evaluation: FileEvaluation, folder: Path, *, truth: Path, results: Path, task: str
) -> None:
    """Write `metrics.json` and, if the evaluator provides details, `details.json`.

    Args:
        evaluation: Results to write.
        folder: Path of the output folder, created if needed.
        truth: Path of the annotation file.
        results: Path of the results file, or of the folder of label maps.
        task: `box`, `mask` or `semantic`.
    """
    evaluator = evaluation.make_evaluator()
    if isinstance(evaluator, DetailedEvaluator):
        write_json(folder / "details.json", evaluator.details())
    write_json(
        folder / "metrics.json", build_summary(evaluation, truth=truth, results=results, task=task)
    )


def build_summary(
    evaluation: FileEvaluation, *, truth: Path, results: Path, task: str
) -> dict[str, Any]:
    """Build the JSON values of the metrics, with the digests of the data and the versions used."""
    return {
        "task": task,
        "metrics": {name: metric_to_json(metric) for name, metric in evaluation.metrics.items()},
        "protocol": evaluation.protocol,
        "evaluator": evaluation.backend,
        "data": {str(truth): compute_sha256(truth), str(results): _compute_digest(results)},
        "notes": list(evaluation.notes),
        **({"subgroups": subgroups.to_json()} if (subgroups := evaluation.subgroups) else {}),
        "versions": find_versions(("hotcoco", "pycocotools", "numpy")),
        "date": strftime("%Y-%m-%d %H:%M:%S"),
    }


def _compute_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, or of the sorted names and digests of a folder's files."""
    if not path.is_dir():
        return compute_sha256(path)
    hasher = hashlib.sha256()
    for file in sorted(child for child in path.rglob("*") if child.is_file()):
        hasher.update(f"{file.relative_to(path).as_posix()} {compute_sha256(file)}\n".encode())
    return hasher.hexdigest()
