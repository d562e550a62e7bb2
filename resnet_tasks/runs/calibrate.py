"""Calibration of a run: scalings of its confidences, fitted on the val split and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import strftime

from rich.table import Table

from resnet_tasks.assemble.split_files import Split
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.evaluation.evaluators import (
    Evaluators,
    add_calibration_evaluators,
    build_evaluators,
)
from resnet_tasks.evaluation.metric_tables import format_number
from resnet_tasks.evaluation.uncertainty.temperature_scaling import TemperatureScaling
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.inference.predictor import Predictor
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.number_formats import Count
from resnet_tasks.run_folder.files import CALIBRATION
from resnet_tasks.runs.evaluate_run import collect_versions, weights_sha256
from resnet_tasks.runs.inference_options import CALIBRATION_FILE, InferenceOptions
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console, Text
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.structures.tasks import DecisionCollector

ERRORS = ("ECE", "D_ECE", "mask_D_ECE")
"""Calibration errors: expected calibration error (ECE) and its detection form (D_ECE), with hits by
box or by mask."""


@dataclass(frozen=True)
class HeadCalibration:
    """Calibration of one head, with its error before and after.

    Attributes:
        scaling: Scaling of the head's outputs.
        number: Number of decisions (pixels, detections or images) that the scaling was fitted to.
        before: Name in `ERRORS` -> value without the scaling, on the images that it was fitted to.
        after: Name in `ERRORS` -> value with the scaling, on the same images.
    """

    scaling: TemperatureScaling
    number: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]


def calibrate(
    run: Run,
    split: Split = "val",
    *,
    checkpoint: str = "last",
    data_root: Path | None = None,
    console: Console | None = None,
) -> tuple[dict[str, HeadCalibration], dict[str, str]]:
    """Fit a temperature scaling to every head and write `calibration.json` into the run folder.

    Fit on images that the model was not trained on, and evaluate on a third set of images. On the
    images that the scaling was fitted to, the remaining error is slightly too small.

    Args:
        run: Run to calibrate.
        split: Split of the recipe whose images the scaling is fitted to.
        checkpoint: `last` or `best`; the calibration is valid for the weights of this checkpoint
            only.
        data_root: Folder that holds the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: Console for progress; default: stderr.

    Returns:
        Head name -> calibration, and head name -> reason why the head was not calibrated.

    Raises:
        DataError: If no head could be calibrated.
    """
    console = console or Console(stderr=True)
    dataset = run.load_dataset(split, data_root=data_root)
    model = run.load_model(checkpoint)
    collectors: dict[str, DecisionCollector] = {
        name: collector
        for name, head in model.named_heads.items()
        if (collector := head.task_spec.build_decision_collector()) is not None
    }
    reasons = {
        name: f"calibration of {head.task} is not supported"
        for name, head in model.named_heads.items()
        if name not in collectors
    }
    console.print(f"collecting decisions on {Count(len(dataset)):image}", highlight=False)
    before = _compute_metrics(
        run, run.build_predictor(checkpoint, keep="probs"), dataset, collectors
    )
    scalings: dict[str, TemperatureScaling] = {}
    for name, collector in collectors.items():
        try:
            scalings[name] = collector.fit()
        except DataError as error:
            reasons[name] = str(error)
    if not scalings:
        details = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        raise DataError(
            f"no head of {run.directory} could be calibrated on the split {split}: {details}"
        )
    console.print("evaluating the calibrated model", highlight=False)
    inference = InferenceOptions(calibrated=True, windows=run.recipe.sliding)
    after = _compute_metrics(
        run,
        inference.build_predictor(
            TorchOutputs(model, run.recipe.training.precision), scalings, keep="confidence"
        ),
        dataset,
        {},
    )
    calibrations = {
        name: HeadCalibration(
            scaling,
            collectors[name].number,
            _select_errors(name, before),
            _select_errors(name, after),
        )
        for name, scaling in scalings.items()
    }
    _write_calibration(run, calibrations, reasons, dataset, split=split, checkpoint=checkpoint)
    return calibrations, reasons


def _compute_metrics(
    run: Run,
    predictor: Predictor,
    dataset: CocoDataset,
    collectors: Mapping[str, DecisionCollector],
) -> Mapping[str, Metric]:
    heads = predictor.heads
    evaluators = add_calibration_evaluators(
        build_evaluators(heads, backend=run.recipe.evaluation.backend), heads
    )
    both: Evaluators = {
        name: [*head_evaluators, *([collectors[name]] if name in collectors else [])]
        for name, head_evaluators in evaluators.items()
    }
    return evaluate(
        predictor,
        dataset,
        batch_size=run.recipe.evaluation.batch_size or run.recipe.training.batch_size,
        evaluators=both,
        bootstrap=None,
    ).metrics


def _select_errors(head: str, metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    return {name: metrics[f"{head}/{name}"].value for name in ERRORS if f"{head}/{name}" in metrics}


def _write_calibration(
    run: Run,
    calibrations: Mapping[str, HeadCalibration],
    reasons: Mapping[str, str],
    dataset: CocoDataset,
    *,
    split: str,
    checkpoint: str,
) -> None:
    write_json(
        run.directory / CALIBRATION_FILE,
        CALIBRATION.add_version(
            {
                "heads": {
                    name: {
                        **calibration.scaling.to_json(),
                        "decisions": calibration.number,
                        "before": dict(calibration.before),
                        "after": dict(calibration.after),
                    }
                    for name, calibration in calibrations.items()
                },
                "not_calibrated": dict(reasons),
                "split": split,
                "data": {str(file.path): compute_sha256(file.path) for file in dataset.files},
                "checkpoint": checkpoint,
                "weights": weights_sha256(run.find_checkpoint(checkpoint)),
                "versions": collect_versions(),
                "date": strftime("%Y-%m-%d %H:%M:%S"),
            }
        ),
    )


def build_calibration_table(calibrations: Mapping[str, HeadCalibration], title: str = "") -> Table:
    """Return the table of temperatures and calibration errors per head, for a console."""
    table = Table(title=Text(title), title_justify="left")
    for heading in ("head", "temperature", "intercept", "decisions", "error", "before", "after"):
        table.add_column(heading, justify="left" if heading in ("head", "error") else "right")
    for name, calibration in calibrations.items():
        for error, before in calibration.before.items():
            table.add_row(
                Text(name),
                f"{calibration.scaling.temperature:.3f}",
                f"{calibration.scaling.intercept:+.3f}",
                str(calibration.number),
                error,
                format_number(before),
                format_number(calibration.after.get(error)),
            )
    return table
