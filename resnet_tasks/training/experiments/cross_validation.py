"""Cross-validation of a recipe: every training image is evaluated by a run that held it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.labels import Labels, build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.split_files import divide_into_folds, find_recipe_data, merge_categories
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.splits.splitting import Folds
from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.evaluate import Evaluation, evaluate_folds
from resnet_tasks.evaluation.evaluators import add_calibration_evaluators, build_evaluators
from resnet_tasks.evaluation.metric_tables import metric_to_json
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.data import FoldsRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.evaluate_run import weights_sha256, write_evaluation
from resnet_tasks.runs.paired_comparison import SavedEvaluation
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.training.experiments.seeds import (
    DEVIATION,
    MetricSpread,
    RepeatedRun,
    build_spread_table,
    run_repeats,
)

SUMMARY = "folds.json"
POOLED = "out-of-fold"
PROTOCOL = (
    "the images of all folds evaluated together, each predicted by the run that held it out; "
    "scores of different runs are ranked together"
)


def finetune_folds(
    recipe: Recipe,
    count: int,
    *,
    out: Path,
    data_root: Path | None = None,
    console: Console | None = None,
) -> dict[str, MetricSpread]:
    """Fine-tune a recipe `count` times, each time evaluated on a held-out fold of `data.train`.

    The folds are a function of `training.seed` and never split a group. Every run has a folder
    `out/fold-N`. When called again, the function keeps finished runs, resumes an interrupted one
    and starts the others. At the end it writes `out/folds.json` and `out/out-of-fold`. `data.val`
    is not read.

    Args:
        recipe: Recipe to run.
        count: Number of folds, at least 2.
        out: Path of the folder of the runs.
        data_root: Folder of the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: Console for progress and the table; default: standard output.

    Returns:
        Metric -> its spread over the held-out folds, with the last checkpoint of every run.

    Raises:
        DataError: If there are fewer groups than folds.
        RunError: If `count` is below 2, a folder has a run of another recipe, or the recipe sets
            `data.folds` itself.
        TrainingStopped: After Ctrl-C or SIGTERM; the same call resumes.
    """
    if count < 2:
        raise RunError(f"--folds is {count}; cross-validation needs at least 2 folds")
    if recipe.data.folds is not None:
        raise RunError("--folds divides data.train itself; remove data.folds from the recipe")
    console = console or Console()
    folds = divide_into_folds(hold_out_fold(recipe, count, 0), find_recipe_data(recipe, data_root))
    repeats = [
        RepeatedRun(f"fold {i}", hold_out_fold(recipe, count, i, folds.digest), out / f"fold-{i}")
        for i in range(count)
    ]
    sizes = np.bincount(folds.fold).tolist()
    console.print(
        f"folds: {Count(len(folds.fold)):image} in {Count(len(set(folds.groups))):group}; "
        f"held-out images per fold: {', '.join(map(str, sizes))}",
        highlight=False,
    )
    spreads = run_repeats(repeats, out, data_root=data_root, console=console)
    pooled = _pool_metrics(repeats, folds, out / POOLED, console)
    write_json(
        out / SUMMARY,
        {
            "recipe": recipe.name,
            "checkpoint": "last",
            "deviation": DEVIATION,
            "pooled": PROTOCOL,
            "seed": recipe.training.seed,
            "digest": folds.digest,
            "folds": _list_held_out(folds, count),
            "metrics": {
                name: {**spread.to_json(), "pooled": _optional_metric_to_json(pooled.get(name))}
                for name, spread in spreads.items()
            },
        },
    )
    title = f"{recipe.name}: held-out folds, last checkpoint, {count} folds"
    console.print(build_spread_table(spreads, title, pooled))
    console.print(f"numbers: {out / SUMMARY}", highlight=False)
    return spreads


def hold_out_fold(recipe: Recipe, count: int, held_out: int, digest: str | None = None) -> Recipe:
    """Return the recipe with a fold of its training data held out, split by `training.seed`.

    Args:
        recipe: Recipe without `data.folds`.
        count: Number of folds.
        held_out: Index of the held-out fold, from 0.
        digest: Digest of the division into folds; None: not known yet.
    """
    folds = FoldsRecipe(count=count, held_out=held_out, seed=recipe.training.seed, digest=digest)
    return replace_settings(recipe, {"data.folds": folds})


def _optional_metric_to_json(metric: Metric | None) -> dict[str, Any] | None:
    return None if metric is None else metric_to_json(metric)


def _list_held_out(folds: Folds, count: int) -> list[dict[str, Any]]:
    """Return the image ids of every fold by annotation file, as JSON-compatible values."""
    groups = np.array(folds.groups)
    return [
        {
            "fold": i,
            "images": int((folds.fold == i).sum()),
            "groups": len(set(groups[folds.fold == i].tolist())),
            "image_ids": {
                str(file.path): [record.id for record in file.images]
                for file in folds.select_fold(i)
            },
        }
        for i in range(count)
    ]


def _pool_metrics(
    repeats: Sequence[RepeatedRun], folds: Folds, folder: Path, console: Console
) -> Mapping[str, Metric]:
    """Compute the metrics over the images of all folds together.

    Saved metrics are returned if weights, data and folds are still the same.

    Args:
        repeats: Runs, in order of their held-out fold.
        folds: Division of the training data into folds.
        folder: Path of the folder for the evaluation.
        console: Console for progress.
    """
    last = [repeat.folder / "checkpoints" / "last" for repeat in repeats]
    metadata = {
        "judged": PROTOCOL,
        "weights": [weights_sha256(checkpoint) for checkpoint in last],
        "digest": folds.digest,
        "data": {str(file.path): compute_sha256(file.path) for file in folds.files},
    }
    if (folder / "metrics.json").exists():
        saved = SavedEvaluation.read(folder, f"remove {folder} and run the same command again")
        if all(saved.metadata.get(key) == value for key, value in metadata.items()):
            return saved.metrics
    console.print("evaluating all held-out images together", highlight=False)
    evaluation = _evaluate_pooled(repeats, folds)
    write_evaluation(evaluation, folder, metadata)
    return evaluation.metrics


def _evaluate_pooled(repeats: Sequence[RepeatedRun], folds: Folds) -> Evaluation:
    recipe = repeats[0].recipe
    labels = build_labels(recipe, merge_categories(list(folds.files)))
    dataset = build_dataset(recipe, list(folds.files), labels.categories)
    heads = build_model(recipe, labels, weights="unloaded").named_heads
    options = recipe.evaluation
    evaluators = build_evaluators(heads, backend=options.backend, extra=options.extra)
    return evaluate_folds(
        _iter_models_and_datasets(repeats, folds, dataset, labels),
        add_calibration_evaluators(evaluators, heads),
        batch_size=options.batch_size or recipe.training.batch_size,
        precision=recipe.training.precision,
        bootstrap=Bootstrap(options.resamples),
    )


def _iter_models_and_datasets(
    repeats: Sequence[RepeatedRun], folds: Folds, dataset: CocoDataset, labels: Labels
) -> Iterator[tuple[TaskModel, CocoDataset]]:
    for i, repeat in enumerate(repeats):
        # `Run.open` would reject a run with plugins; they are already loaded with the recipe.
        run = Run.read(repeat.folder)
        run.require_unchanged(run.recipe, labels)
        yield run.load_model(), dataset.select(np.flatnonzero(folds.fold == i).tolist())
