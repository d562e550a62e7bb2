"""Metrics of an evaluated run by subgroup of the images, added to its `metrics.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.subgroups.measured import Advance
from resnet_tasks.evaluation.evaluate import Evaluation
from resnet_tasks.evaluation.subgroups.compute import HeadEvaluation, compute_subgroup_metrics
from resnet_tasks.evaluation.subgroups.divide import ImageDivision, divide_images
from resnet_tasks.evaluation.subgroups.results import SubgroupMetrics
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
from resnet_tasks.files.atomic import write_json
from resnet_tasks.run_folder.files import METRICS
from resnet_tasks.run_folder.read import read_object


@dataclass(frozen=True)
class RunSubgroups:
    """Subgroups of the images that a run is evaluated on.

    Attributes:
        divisions: Subgroup of every image, by each key.
        groups: Image id -> patient, study or sequence, for images that have one.
    """

    divisions: tuple[ImageDivision, ...]
    groups: dict[int | str, str]

    @classmethod
    def read(
        cls, dataset: CocoDataset, keys: Sequence[str], advance: Advance | None = None
    ) -> Self:
        """Divide the images of a dataset.

        Args:
            dataset: Dataset that `Run.evaluate` evaluates on; see `Run.load_dataset`.
            keys: Keys of the image records, or measured keys; see `find_subgroups`.
            advance: Progress callback of reading images.

        Raises:
            DataError: If a key does not divide the images, or an image cannot be read.
        """
        ids = [dataset.image_id(index) for index in range(len(dataset))]
        limit = dataset.preparation.max_pixels
        divisions = divide_images(dataset.files, ids, keys, max_pixels=limit, advance=advance)
        groups = {
            image_id: group
            for index, image_id in enumerate(ids)
            if (group := dataset.group(index)) is not None
        }
        return cls(divisions, groups)

    def evaluate(self, evaluation: Evaluation, folder: Path) -> SubgroupMetrics:
        """Compute the metrics of every subgroup, and add them to `metrics.json`.

        Args:
            evaluation: Evaluation of the dataset, whose matches are used.
            folder: Folder of the evaluation.
        """
        resampling = evaluation.resampling
        metrics = compute_subgroup_metrics(
            [_select_head(evaluation, name) for name in evaluation.evaluators],
            self.divisions,
            self.groups,
            Bootstrap(0) if resampling is None else resampling.bootstrap,
        )
        path = folder / "metrics.json"
        write_json(path, {**read_object(path, METRICS), "subgroups": metrics.to_json()})
        return metrics


def _select_head(evaluation: Evaluation, name: str) -> HeadEvaluation:
    prefix = f"{name}/"
    metrics = {
        metric_name.removeprefix(prefix): metric
        for metric_name, metric in evaluation.metrics.items()
        if metric_name.startswith(prefix)
    }
    return HeadEvaluation(name, evaluation.evaluators[name], metrics)
