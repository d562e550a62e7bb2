"""An evaluation of a run as files: metrics, details, resampled values, predictions and drawings."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np
import torch
from rich.console import Console

from resnet_tasks.assemble.datasets import image_intensity, image_resize
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.data.coco import CocoFile
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.preparation import Preparation
from resnet_tasks.drawing import (
    draw_prediction,
    draw_truth,
    readable_scale,
    resized_prediction,
    resized_truth,
    side_by_side,
)
from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.evaluate import Evaluation, evaluate
from resnet_tasks.evaluation.evaluators import evaluators_of, with_calibration
from resnet_tasks.evaluation.intervals import Bootstrap
from resnet_tasks.evaluation.reporting import file_sha256, metric_json, metric_tables, number
from resnet_tasks.evaluation.views import Predictor, plain_model
from resnet_tasks.heads.base import HEADS
from resnet_tasks.prediction_files import PredictionWriter, output_names, overview, write_picture
from resnet_tasks.progress import bar
from resnet_tasks.recipe.schema import Recipe
from resnet_tasks.structures import Truth
from resnet_tasks.training.checkpoint import weights_file, write_json
from resnet_tasks.training.inference import Inference

__all__ = [
    "check_categories",
    "file_sha256",
    "hardware",
    "judge",
    "metric_json",
    "metric_tables",
    "number",
    "preparation_of",
    "versions",
    "weights_sha256",
    "write_evaluation",
]


def judge(
    model: Predictor,
    dataset: CocoDataset,
    folder: Path,
    *,
    recipe: Recipe,
    labels: Labels,
    checkpoint: Path,
    how: Inference,
    console: Console,
    pictures: int,
) -> Evaluation:
    """Evaluates a model and writes what came out.

    Args:
        model: With the checkpoint's weights, and what is done around it.
        dataset: What it is judged on.
        folder: Gets `metrics.json`, `details.json`, `resamples.npz` (where intervals were made),
            `predictions/` and `pictures/`.
        recipe: Of the run.
        labels: Of the run.
        checkpoint: Folder that the weights are from.
        how: What `model` does around them, for the file.
        console: For progress.
        pictures: How many pictures to draw, truth beside prediction.
    """
    classes = {name: each.classes for name, each in labels.heads.items()}
    ids = {name: each.category_ids for name, each in labels.heads.items()}
    writer = PredictionWriter(folder / "predictions", classes, ids)
    names = output_names([dataset.path(i) for i in range(len(dataset))])
    drawn = set(np.linspace(0, len(dataset) - 1, min(pictures, len(dataset))).astype(int))
    options, heads = recipe.evaluation, plain_model(model).named_heads
    with bar(console, "Evaluating", len(dataset)) as advance:

        def keep(index: int, predictions: dict[str, Any]) -> None:
            writer.write(dataset.image_id(index), names[index], predictions)
            if index in drawn:
                path = folder / "pictures" / f"{names[index]}.png"
                _draw_pair(dataset, index, predictions, recipe=recipe, labels=labels, path=path)
            advance()

        evaluation = evaluate(
            model,
            dataset,
            batch_size=options.batch_size or recipe.training.batch_size,
            precision=recipe.training.precision,
            evaluators=with_calibration(
                evaluators_of(heads, backend=options.backend, extra=options.extra), heads
            ),
            bootstrap=Bootstrap(options.resamples),
            on_picture=keep,
        )
    for head, results in writer.results.items():
        write_json(folder / "predictions" / f"{head}.json", results)
    about = {
        "evaluator": {"boxes": options.backend, "pixels": "resnet_tasks confusion matrix"},
        "checkpoint": checkpoint.name,
        "weights": weights_sha256(checkpoint),
        "calibrated": how.calibrated,
        "test_time_augmentation": how.views,
        "windows": None if (part := how.windows or recipe.sliding) is None else part.model_dump(),
        "data": {str(file.path): file_sha256(file.path) for file in dataset.files},
        "folds": None if recipe.data.folds is None else recipe.data.folds.model_dump(),
        "data_problems": {str(file.path): file.summary() for file in dataset.files},
    }
    write_evaluation(evaluation, folder, about)
    return evaluation


def write_evaluation(evaluation: Evaluation, folder: Path, about: Mapping[str, Any]) -> None:
    """Writes `metrics.json`, `details.json` and, where intervals were made, `resamples.npz`.

    Args:
        evaluation: What to write.
        folder: Is made where needed.
        about: What was judged, on what: further keys of `metrics.json`.
    """
    made = evaluation.resampling
    write_json(folder / "details.json", evaluation.details())
    if made is not None:
        made.save(folder / "resamples.npz")
    write_json(
        folder / "metrics.json",
        {
            "metrics": {name: metric_json(each) for name, each in evaluation.metrics.items()},
            "intervals": None if made is None else made.to_json(),
            "protocol": evaluation.protocols,
            **about,
            "pictures": len(evaluation.picture_ids),
            "versions": versions(),
            "hardware": hardware(),
            "date": strftime("%Y-%m-%d %H:%M:%S"),
        },
    )


def _draw_pair(
    dataset: CocoDataset,
    index: int,
    predictions: dict[str, Any],
    *,
    recipe: Recipe,
    labels: Labels,
    path: Path,
) -> None:
    image = overview(preparation_of(recipe).opened(dataset.path(index)))
    classes = {name: each.classes for name, each in labels.heads.items()}
    fields = {name: HEADS.get(head.type).task.target_fields for name, head in recipe.heads.items()}
    truths = {
        name: _only(dataset.truth(index, each.table), fields[name])
        for name, each in labels.heads.items()
    }
    size, whole = (int(image.shape[0]), int(image.shape[1])), next(iter(truths.values())).size
    if size != whole:
        ratio = (size[0] / whole[0], size[1] / whole[1])
        truths = {name: resized_truth(each, ratio, size) for name, each in truths.items()}
        predictions = {
            name: resized_prediction(each, ratio, size) for name, each in predictions.items()
        }
    detecting = {name for name in truths if "semantic" not in fields[name]}
    scale = readable_scale(size)
    truth = draw_truth(image, truths, classes, detecting, scale=scale)
    prediction = draw_prediction(image, predictions, classes, scale=scale)
    write_picture(path, side_by_side(truth, prediction, ("truth", "prediction")))


def _only(truth: Truth, fields: Collection[str]) -> Truth:
    """What a head learns from; the rest of the truth is not its business."""
    return replace(
        truth,
        boxes_xywh=truth.boxes_xywh if "boxes" in fields else None,
        image_labels=truth.image_labels if "image_labels" in fields else None,
    )


def preparation_of(recipe: Recipe) -> Preparation:
    """How a recipe's pictures become samples."""
    return Preparation(
        recipe.data.channels,
        image_resize(recipe),
        image_intensity(recipe),
        max_pixels=recipe.data.max_pixels,
    )


def check_categories(file: CocoFile, labels: Labels, run: Path) -> None:
    """Refuses a file to judge on whose categories are not those of the run.

    Raises:
        RunError: If it has one that the run does not know.
    """
    known = {(each.id, each.name) for each in labels.categories.categories}
    if not {(each.id, each.name) for each in file.categories.categories} <= known:
        raise RunError(
            f"{file.path} has the categories {_listed(file)}, but the run {run} was trained on "
            f"{', '.join(f'{c.id} {c.name}' for c in labels.categories.categories)}; evaluate on a "
            "file with those"
        )


def _listed(file: CocoFile) -> str:
    return ", ".join(f"{each.id} {each.name}" for each in file.categories.categories)


def weights_sha256(checkpoint: Path) -> str:
    """Hex digest of the weights that a checkpoint predicts with."""
    return file_sha256(weights_file(checkpoint))


def versions() -> dict[str, str]:
    """Versions of what made a number."""
    names = (
        "torch",
        "torchvision",
        "timm",
        "segmentation-models-pytorch",
        "hotcoco",
        "pycocotools",
    )
    found = {name: version(name) for name in names}
    return {"resnet-tasks": version("resnet-tasks"), "python": platform.python_version(), **found}


def hardware() -> dict[str, Any]:
    """What the numbers were made on."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }
