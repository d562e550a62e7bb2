"""Datasets of a run, if they are still available: summaries of the splits, and evaluated files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_tasks.assemble.split_files import find_recipe_data, get_sources, read_sources
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.report.run_view import SPLITS, EvaluationView, RunView


@dataclass(frozen=True)
class SplitView:
    """Statistics of one split.

    Attributes:
        name: `train`, `val`, `test`, or the name of the evaluation.
        files: Paths of the annotation files.
        images: Number of images.
        empty: Number of images without any annotation.
        objects: Class name -> number of objects, excluding crowd regions.
        annotated: Kinds of annotations in the files.
        sizes: (width x height, number of images), most frequent size first.
        side: 5th, 50th and 95th percentile of the object size (square root of the area), pixels;
            None without objects.
        problems: Kind of problem -> number of cases that were repaired or skipped while reading.
    """

    name: str
    files: tuple[str, ...]
    images: int
    empty: int
    objects: dict[str, int]
    annotated: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...]
    side: tuple[float, float, float] | None
    problems: dict[str, int]


def locate_data_folder(
    run: RunView, evaluation: EvaluationView | None, data_root: Path | None
) -> Path:
    """Return the data folder of a run.

    Without `data_root` the default location is tried first, then the location of the annotation
    files at the time of the evaluation.

    Raises:
        DataError: If the folder does not exist.
    """
    try:
        return find_recipe_data(run.recipe, data_root)
    except DataError:
        if data_root is not None:
            raise
        folder = _infer_folder(run.recipe, evaluation)
        if folder is None:
            raise
        return folder


def _infer_folder(recipe: Recipe, evaluation: EvaluationView | None) -> Path | None:
    """Infer the data folder from the annotation files that an evaluation lists."""
    for text in (evaluation.metadata.get("data") or {}) if evaluation else ():
        for split in SPLITS:
            for source in get_sources(recipe, split):
                path, parts = Path(text), Path(source.annotations).parts
                if path.is_file() and path.parts[-len(parts) :] == parts:
                    return path.parents[len(parts) - 1]
    return None


def read_evaluated_files(
    run: RunView, evaluation: EvaluationView, data_root: Path | None
) -> list[CocoFile]:
    """Read the COCO files that were evaluated.

    Raises:
        DataError: If the files no longer exist.
    """
    if evaluation.split is not None:
        return read_sources(
            run.recipe, evaluation.split, locate_data_folder(run, evaluation, data_root)
        )
    paths = list(evaluation.metadata.get("data") or {})
    if not paths:
        raise DataError(f"{evaluation.folder / 'metrics.json'} does not record the evaluated data")
    return [read_coco(path) for path in paths]


def as_dataset(run: RunView, files: list[CocoFile]) -> CocoDataset:
    """Return the files as a dataset with the run's categories; images are not loaded.

    Raises:
        DataError: If the files contain no image, or a category that the run does not have.
    """
    return CocoDataset(
        files,
        categories=run.labels.categories,
        fields=(),
        preparation=Preparation(run.recipe.data.channels),
        cache=False,
    )


def summarize_split(name: str, dataset: CocoDataset) -> SplitView:
    """Return the statistics of a split."""
    records = [record for file in dataset.files for record in file.images]
    annotations = [file.annotations for file in dataset.files]
    sides = np.sqrt(
        np.concatenate([table.areas[table.has_box & ~table.crowd] for table in annotations])
    )
    side = None
    if len(sides):
        low, middle, high = np.percentile(sides, (5, 50, 95))
        side = (float(low), float(middle), float(high))
    sizes = Counter(f"{record.width} × {record.height}" for record in records)
    problems: Counter[str] = Counter()
    for file in dataset.files:
        problems.update(file.count_problems())
    return SplitView(
        name=name,
        files=tuple(str(file.path) for file in dataset.files),
        images=len(records),
        empty=sum(len(table) - len(np.unique(table.image_positions)) for table in annotations),
        objects=dataset.count_objects(),
        annotated=tuple(sorted({kind for file in dataset.files for kind in file.annotated})),
        sizes=tuple(sizes.most_common()),
        side=side,
        problems=dict(problems),
    )
