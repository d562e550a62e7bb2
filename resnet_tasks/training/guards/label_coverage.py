"""Whether the labels of all images fit the classifiers of a model, looked at before training."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.errors import DataError
from resnet_tasks.heads.classifier import Classifier, get_single_label
from resnet_tasks.model import TaskModel


def require_valid_labels(model: TaskModel, datasets: Iterable[CocoDataset]) -> None:
    """Every image has the labels that its classifiers can learn from and be judged by.

    Raises:
        DataError: With the first image that has not, and how many others there are.
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
            more = f" ({len(problems) - 1} other images alike)" if len(problems) > 1 else ""
            raise DataError(f"heads.{name}: {problems[0]}{more}")
