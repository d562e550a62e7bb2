"""Check before training that the labels of all images fit the classifiers of a model."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.errors import DataError
from resnet_tasks.heads.classifier import Classifier, get_single_label
from resnet_tasks.model import TaskModel


def require_valid_labels(model: TaskModel, datasets: Iterable[CocoDataset]) -> None:
    """Require one label per annotated image for every trained single-label classifier.

    Args:
        model: Model whose classifiers are checked.
        datasets: Training and validation data.

    Raises:
        DataError: If an annotated image has no label, or more than one that the classifier knows;
            the message names the first such image and counts the others.
    """
    all_datasets = tuple(datasets)
    for name in model.trained_heads:
        head = model.named_heads[name]
        if not isinstance(head, Classifier) or head.options.multi_label:
            continue
        problems = []
        for dataset in all_datasets:
            for index in range(len(dataset)):
                labels = dataset.image_labels(index, model.label_tables[name])
                if labels is None:
                    continue
                try:
                    get_single_label(labels, dataset.image_id(index))
                except DataError as error:
                    problems.append(str(error))
        if problems:
            more = (
                f" ({len(problems) - 1} other image(s) have the same problem)"
                if len(problems) > 1
                else ""
            )
            raise DataError(f"heads.{name}: {problems[0]}{more}")
