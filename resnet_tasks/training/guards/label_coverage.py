"""Check before training that the labels of all images fit the heads of a model."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.ground_truth import map_image_labels
from resnet_tasks.errors import DataError
from resnet_tasks.model import TaskModel


def require_valid_labels(model: TaskModel, datasets: Iterable[CocoDataset]) -> None:
    """Require image-level labels that every trained head can learn from (`Head.check_labels`).

    Args:
        model: Model whose heads are checked.
        datasets: Training and validation data.

    Raises:
        DataError: If a head refuses the labels of an annotated image; the message names the first
            such image and counts the others.
    """
    all_datasets = tuple(datasets)
    for name in model.trained_heads:
        head = model.named_heads[name]
        if "image_labels" not in head.task_spec.required_fields:
            continue
        problems = []
        for dataset in all_datasets:
            for index in range(len(dataset)):
                record = dataset.image_index.record(index)
                labels = map_image_labels(*record, model.label_tables[name].mapping)
                if labels is None:
                    continue
                try:
                    head.check_labels(labels, dataset.image_id(index))
                except DataError as error:
                    problems.append(str(error))
        if problems:
            more = (
                f" ({len(problems) - 1} other image(s) have the same problem)"
                if len(problems) > 1
                else ""
            )
            raise DataError(f"heads.{name}: {problems[0]}{more}")
