"""Files of an evaluation: metrics, details, resampled values, predictions and drawings."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np
import torch

from resnet_tasks.assemble.datasets import build_preparation
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.find_images import make_output_names
from resnet_tasks.errors import RunError, format_allowed
from resnet_tasks.evaluation.evaluate import Evaluation, evaluate
from resnet_tasks.evaluation.evaluators import add_calibration_evaluators, build_evaluators
from resnet_tasks.evaluation.ground_truth import get_label_table
from resnet_tasks.evaluation.metric_tables import (
    metric_to_json,
)
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.inference.prediction_writer import PredictionWriter
from resnet_tasks.inference.predictor import Predictor
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.run_folder.checkpoint import find_weights_file
from resnet_tasks.run_folder.files import METRICS
from resnet_tasks.runs.inference_options import InferenceOptions
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.runtime.versions import find_versions
from resnet_tasks.structures.input_images import HeadInfo
from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.visualization.colors import Color
from resnet_tasks.visualization.drawing import (
    compute_readable_scale,
    draw_prediction,
    draw_truth,
    join_side_by_side,
)
from resnet_tasks.visualization.thumbnails import make_overview, write_image


def evaluate_and_save(
    model: Predictor,
    dataset: CocoDataset,
    folder: Path,
    *,
    recipe: Recipe,
    labels: Labels,
    checkpoint: Path,
    inference: InferenceOptions,
    console: Console,
    num_drawings: int,
) -> Evaluation:
    """Evaluate a model and write metrics, predictions and drawings.

    Args:
        model: Predictor with the checkpoint's weights, and with calibration, test-time augmentation
            or windows around it.
        dataset: Images and ground truth to evaluate on.
        folder: Folder that receives `metrics.json`, `details.json`, `resamples.npz` (if intervals
            are computed), `predictions/` and `images/`.
        recipe: Recipe of the run.
        labels: Categories and classes of the run.
        checkpoint: Folder of the checkpoint that the weights come from.
        inference: Calibration, views and windows of `model`, recorded in `metrics.json`.
        console: Console for progress.
        num_drawings: Number of images to draw, ground truth next to prediction.
    """
    classes = {name: head_labels.classes for name, head_labels in labels.heads.items()}
    ids = {name: head_labels.category_ids for name, head_labels in labels.heads.items()}
    writer = PredictionWriter(
        folder / "predictions", classes, ids, categories=labels.categories.names
    )
    names = make_output_names([dataset.path(i) for i in range(len(dataset))])
    rendered_indices = set(
        np.linspace(0, len(dataset) - 1, min(num_drawings, len(dataset))).astype(int)
    )
    options, heads = recipe.evaluation, model.heads
    with track_progress(console, "Evaluating", len(dataset)) as advance:

        def save_predictions(index: int, predictions: Mapping[str, Prediction]) -> None:
            writer.write(dataset.image_id(index), names[index], predictions)
            if index in rendered_indices:
                path = folder / "images" / f"{names[index]}.png"
                _draw_comparison(dataset, index, predictions, recipe=recipe, heads=heads, path=path)
            advance()

        evaluation = evaluate(
            model,
            dataset,
            batch_size=options.batch_size or recipe.training.batch_size,
            evaluators=add_calibration_evaluators(
                build_evaluators(heads, backend=options.backend, extra=options.extra), heads
            ),
            bootstrap=Bootstrap(options.resamples),
            on_image=save_predictions,
        )
    for head, results in writer.results.items():
        write_json(folder / "predictions" / f"{head}.json", results)
    metadata = {
        "evaluator": {"boxes": options.backend, "pixels": "resnet_tasks confusion matrix"},
        "checkpoint": checkpoint.name,
        "weights": weights_sha256(checkpoint),
        "calibrated": inference.calibrated,
        "test_time_augmentation": inference.tta_views,
        "windows": None
        if (part := inference.windows or recipe.sliding) is None
        else part.model_dump(),
        "data": {str(file.path): compute_sha256(file.path) for file in dataset.files},
        "folds": None if recipe.data.folds is None else recipe.data.folds.model_dump(),
        "data_problems": {str(file.path): file.count_problems() for file in dataset.files},
    }
    write_evaluation(evaluation, folder, metadata)
    return evaluation


def write_evaluation(evaluation: Evaluation, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write `metrics.json`, `details.json` and, if intervals were computed, `resamples.npz`.

    Args:
        evaluation: Evaluation to write.
        folder: Folder of the evaluation; it is created if necessary.
        metadata: Further keys of `metrics.json`, such as checkpoint, weights and data files.
    """
    resampling = evaluation.resampling
    write_json(folder / "details.json", evaluation.details())
    if resampling is not None:
        resampling.save(folder / "resamples.npz")
    write_json(
        folder / "metrics.json",
        METRICS.add_version(
            {
                "metrics": {
                    name: metric_to_json(metric) for name, metric in evaluation.metrics.items()
                },
                "intervals": None if resampling is None else resampling.to_json(),
                "protocol": evaluation.protocols,
                **metadata,
                "images": len(evaluation.image_ids),
                "versions": collect_versions(),
                "hardware": describe_hardware(),
                "date": strftime("%Y-%m-%d %H:%M:%S"),
            }
        ),
    )


def _draw_comparison(
    dataset: CocoDataset,
    index: int,
    predictions: Mapping[str, Prediction],
    *,
    recipe: Recipe,
    heads: Mapping[str, HeadInfo],
    path: Path,
) -> None:
    image = make_overview(build_preparation(recipe).open_image(dataset.path(index)))
    classes = {name: head.classes for name, head in heads.items()}
    tasks = {name: head.task_spec for name, head in heads.items()}
    truths = {name: dataset.truth(index, get_label_table(head)) for name, head in heads.items()}
    size, original_size = (
        (int(image.shape[0]), int(image.shape[1])),
        next(iter(truths.values())).size,
    )
    if size != original_size:
        ratio = (size[0] / original_size[0], size[1] / original_size[1])
        predictions = {
            name: head_prediction.resize(ratio, size)
            for name, head_prediction in predictions.items()
        }
    scale, names = compute_readable_scale(size), dataset.categories.names
    legend: dict[str, Color] = {}
    truth = draw_truth(image, truths, classes, tasks, scale=scale, categories=names, legend=legend)
    prediction = draw_prediction(
        image, predictions, classes, scale=scale, categories=names, legend=legend
    )
    write_image(path, join_side_by_side(truth, prediction, ("truth", "prediction"), legend))


def check_categories(file: CocoFile, labels: Labels, run: Path) -> None:
    """Reject a file that has categories unknown to the run.

    Raises:
        RunError: If the file has a category that the run does not have.
    """
    run_categories = _list_categories(labels.categories)
    known = set(run_categories)
    unknown = [pair for pair in _list_categories(file.categories) if pair not in known]
    if unknown:
        raise RunError(
            f"{file.path} has the categories {_format_categories(unknown)}, but the run {run} was "
            f"trained on {_format_categories(run_categories)}; evaluate on a file with these "
            "categories"
        )


def _list_categories(categories: CategoryMap) -> list[tuple[int, str]]:
    return [(category.id, category.name) for category in categories.categories]


def _format_categories(pairs: Sequence[tuple[int, str]]) -> str:
    return format_allowed((f"{category_id} {name}" for category_id, name in pairs))


def weights_sha256(checkpoint: Path) -> str:
    """Return the SHA-256 hex digest of the weights that a checkpoint predicts with."""
    return compute_sha256(find_weights_file(checkpoint))


def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that influence the metrics."""
    return find_versions(
        ("torch", "torchvision", "timm", "segmentation-models-pytorch", "hotcoco", "pycocotools")
    )


def describe_hardware() -> dict[str, Any]:
    """Return CPU, number of torch threads and GPU of this machine."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }
