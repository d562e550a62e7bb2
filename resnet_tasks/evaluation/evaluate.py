"""Predictions of a model on a data set, judged head by head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from resnet_tasks.data.coco import boxes_to_xywh
from resnet_tasks.data.dataset import HasTruth
from resnet_tasks.data.loaders import make_loader
from resnet_tasks.data.transforms import decode_labels, encode_labels, resize_labels
from resnet_tasks.errors import RecipeError
from resnet_tasks.evaluation.detection import DetectionEvaluator
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.heads.base import Head
from resnet_tasks.model import TaskModel, resolve_precision
from resnet_tasks.registry import nearest
from resnet_tasks.structures import Evaluator, LabelTable, Metric, Sample, Task, Truth

MAIN_METRIC = {"detection": "AP", "semantic_segmentation": "mIoU", "classification": "top1"}
"""Task -> the metric that chooses the best checkpoint unless a recipe says otherwise."""

__all__ = ["MAIN_METRIC", "DetectionEvaluator", "SegmentationEvaluator", "evaluate", "truth_of"]


def evaluate(
    model: TaskModel,
    dataset: Dataset[Sample],
    *,
    batch_size: int = 8,
    precision: str = "auto",
    workers: int = 0,
    backend: str = "hotcoco",
    on_picture: Callable[[int, dict[str, Any]], None] | None = None,
) -> tuple[dict[str, Metric], dict[str, str]]:
    """Metrics of every head of `model` on `dataset`.

    Args:
        model: On its device; the mode it is in is kept.
        dataset: Samples without augmentation. `CocoDataset` is judged on its files' own
            annotations, any other data set on its samples' targets, brought back to the original
            frame.
        batch_size: Pictures per forward.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        workers: Loader processes.
        backend: Evaluator of boxes: `hotcoco` or `pycocotools`; they give the same numbers.
        on_picture: Called with (position, {head: prediction}) after each picture.

    Returns:
        `{"head/metric": Metric}`, and head -> protocol in one sentence. Heads whose truth is not
        annotated on any picture are left out.
    """
    evaluators = {name: head.evaluator() for name, head in model.named_heads.items()}
    for evaluator in evaluators.values():
        if isinstance(evaluator, DetectionEvaluator):
            evaluator.backend = backend
    length = len(dataset)  # type: ignore[arg-type]
    batches = [list(range(i, min(i + batch_size, length))) for i in range(0, length, batch_size)]
    chosen = resolve_precision(precision, model.device)
    seen: set[str] = set()
    for positions, batch in zip(
        batches, make_loader(dataset, batches, workers=workers), strict=True
    ):
        predictions = model.predict(batch, precision=chosen)
        for offset, index in enumerate(positions):
            here = {name: each[offset] for name, each in predictions.items()}
            for name, evaluator in evaluators.items():
                head = model.named_heads[name]
                truth = truth_of(dataset, index, model.label_tables[name])
                if _judges(head.task, truth):
                    seen.add(name)
                    evaluator.update(here[name], truth)
            if on_picture is not None:
                on_picture(index, here)
    return _collected({name: each for name, each in evaluators.items() if name in seen})


def best_metric(heads: Mapping[str, Head], wanted: str | None) -> str:
    """The metric that chooses the best checkpoint, known before the first step.

    Args:
        heads: Name -> head.
        wanted: `head/metric` of a recipe; None: the main metric of the first head.

    Returns:
        `head/metric`; empty where no head says what it measures.

    Raises:
        RecipeError: If it is no metric of any head.
    """
    if wanted is not None and wanted.split("/")[0] not in heads:
        raise RecipeError(f"evaluation.best is {wanted!r}; the heads are {', '.join(heads)}")
    if wanted is not None and _has_own_evaluator(heads[wanted.split("/")[0]]):
        return wanted  # which need not be able to count nothing
    tasks = {
        f"{name}/{metric}": head.task.name
        for name, head in heads.items()
        if not _has_own_evaluator(head)
        for metric in head.evaluator().compute()
    }
    if wanted is None:
        mains = (each for each, task in tasks.items() if each.endswith(f"/{MAIN_METRIC.get(task)}"))
        return next(mains, next(iter(tasks), ""))
    if wanted not in tasks:
        close = nearest(wanted, list(tasks))
        hint = f"; did you mean {close!r}?" if close else ""
        raise RecipeError(f"evaluation.best is {wanted!r}; metrics are: {', '.join(tasks)}{hint}")
    return wanted


def _has_own_evaluator(head: Head) -> bool:
    return type(head).evaluator is not Head.evaluator


def _collected(
    evaluators: Mapping[str, Evaluator],
) -> tuple[dict[str, Metric], dict[str, str]]:
    metrics = {
        f"{name}/{metric}": value
        for name, evaluator in evaluators.items()
        for metric, value in evaluator.compute().items()
    }
    return metrics, {name: evaluator.protocol for name, evaluator in evaluators.items()}


def _judges(task: Task, truth: Truth) -> bool:
    present = {
        "boxes": truth.boxes_xywh,
        "labels": truth.labels,
        "semantic": truth.semantic,
        "image_labels": truth.image_labels,
    }
    return all(
        present.get(field) is not None or field in truth.extra for field in task.target_fields
    )


def truth_of(dataset: Dataset[Sample], index: int, table: LabelTable) -> Truth:
    """What is annotated on picture `index`, in original pixels and the labels of one head."""
    if isinstance(dataset, HasTruth):
        return dataset.truth(index, table)
    sample = dataset[index]
    target = table.apply(sample.target)
    size = sample.geometry.original_size
    semantic = None
    if target.semantic is not None:
        flips = tuple(axis for axis, scale in enumerate(sample.geometry.scale) if scale < 0)
        upright = np.flip(target.semantic.numpy(), flips)
        semantic = decode_labels(resize_labels(encode_labels(upright), size))
    whole = None if target.image_labels is None else target.image_labels.numpy()
    known = Truth(sample.image_id, size, semantic=semantic, image_labels=whole, extra=target.extra)
    if target.boxes is None or target.labels is None:
        return known
    xywh = boxes_to_xywh(sample.geometry.boxes_to_original(target.boxes).numpy())
    crowd = target.ignore if target.ignore is not None else torch.zeros(len(xywh), dtype=torch.bool)
    return replace(
        known,
        boxes_xywh=xywh,
        labels=target.labels.numpy(),
        crowd=crowd.numpy(),
        areas=xywh[:, 2] * xywh[:, 3],
    )
