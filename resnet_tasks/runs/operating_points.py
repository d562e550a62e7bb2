"""Operating points in `RUN/operating_point.json`: score thresholds chosen on val."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import strftime

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.split_files import Split, read_split
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.evaluation.metric_tables import CLASS_ROWS
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator, FrocOptions
from resnet_tasks.evaluation.protocols.operating_point import (
    OperatingPoint,
    ThresholdRule,
    choose_thresholds,
    get_label_thresholds,
)
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.run_folder.files import OPERATING_POINT
from resnet_tasks.run_folder.read import make_damage_error, read_object
from resnet_tasks.runs.evaluate_run import check_categories, collect_versions, weights_sha256
from resnet_tasks.runs.run import Run

FILE = "operating_point.json"

Points = dict[str, dict[str, OperatingPoint | None]]
"""Head name -> class name -> operating point."""


def select_extremes(
    points: Mapping[str, OperatingPoint | None],
) -> Mapping[str, OperatingPoint | None]:
    """Return the same points; of many classes, `all` and those with the lowest and highest F1."""
    if len(points) - 1 <= CLASS_ROWS:
        return points
    scores = {name: point.f1 for name, point in points.items() if point and name != "all"}
    ranked = sorted(scores, key=lambda name: scores[name])
    half = CLASS_ROWS // 2
    names = ranked if len(ranked) <= CLASS_ROWS else [*ranked[:half], *ranked[-half:]]
    return {name: points[name] for name in ("all", *names)}


def choose_operating_points(
    run: Run,
    rule: ThresholdRule,
    *,
    options: FrocOptions | None = None,
    split: Split = "val",
    checkpoint: str = "last",
    data_root: Path | None = None,
) -> Points:
    """Choose the score thresholds of every detection head and store them in the run folder.

    Args:
        run: Run whose heads predict.
        rule: Requirement that a threshold has to meet.
        options: Criterion for a hit.
        split: Split of the recipe to choose on. With thresholds chosen on `test`, the metrics on
            `test` would be too optimistic.
        checkpoint: `last` or `best`.
        data_root: Folder that holds the datasets; default `$RESNET_TASKS_DATA`, else `./data`.

    Raises:
        RunError: If the run has no detection head.
        DataError: If the split annotates no boxes, or no threshold meets the rule.
    """
    model = run.load_model(checkpoint)
    evaluators = {
        name: [FrocEvaluator(head.classes, options)]
        for name, head in model.named_heads.items()
        if FrocEvaluator.task in head.task_spec.evaluator_families
    }
    if not evaluators:
        raise RunError(
            f"{run.directory} has no detection head, only {', '.join(model.named_heads)}; an "
            "operating point is a minimum score of detections"
        )
    files = read_split(run.recipe, split, data_root)
    for file in files:
        check_categories(file, run.labels, run.directory)
    recipe = run.recipe
    evaluation = evaluate(
        run.build_predictor(checkpoint),
        build_dataset(run.recipe, files, run.labels.categories),
        batch_size=recipe.evaluation.batch_size or recipe.training.batch_size,
        evaluators=evaluators,
        bootstrap=None,
    )
    points: Points = {}
    for name, (evaluator,) in evaluators.items():
        if name not in evaluation.evaluators:
            raise DataError(f"head {name}: {split} annotates no boxes; choose another --split")
        try:
            points[name] = choose_thresholds(evaluator, rule)
        except DataError as error:
            raise DataError(f"head {name}, {split}: {error}") from None
    folder = run.find_checkpoint(checkpoint)
    first = next(iter(evaluators.values()))[0].options
    write_json(
        run.directory / FILE,
        OPERATING_POINT.add_version(
            {
                "rule": str(rule),
                "hit": first.model_dump(),
                "heads": {
                    name: {
                        class_name: point and point.to_json()
                        for class_name, point in class_points.items()
                    }
                    for name, class_points in points.items()
                },
                "split": split,
                "images": len(evaluation.image_ids),
                "data": {str(file.path): compute_sha256(file.path) for file in files},
                "checkpoint": checkpoint,
                "weights": weights_sha256(folder),
                "versions": collect_versions(),
                "date": strftime("%Y-%m-%d %H:%M:%S"),
            }
        ),
    )
    return points


def load_thresholds(run: Run, checkpoint: str = "last") -> dict[str, tuple[float, ...]]:
    """Return head name -> score threshold of every label, as stored in the run folder.

    Args:
        run: Run whose thresholds are loaded.
        checkpoint: Checkpoint whose weights predict, `last` or `best`.

    Raises:
        RunError: If no thresholds were chosen, or they were chosen for other weights.
    """
    path = run.directory / FILE
    remedy = f"`resnet-tasks operating-point {run.directory} --checkpoint {checkpoint}`"
    if not path.exists():
        raise RunError(f"{path} does not exist; choose thresholds with {remedy}")
    advice = f"choose new thresholds with {remedy}"
    contents = read_object(path, OPERATING_POINT, advice)
    for name, points in contents["heads"].items():
        if name not in run.classes:
            reason = f"the run has no head {name}"
        elif not {"all", *run.classes[name]} <= points.keys():
            reason = f"it lacks classes of the head {name}"
        elif points["all"] is None:
            reason = f"the head {name} has no threshold for all classes together"
        else:
            continue
        raise make_damage_error(path, OPERATING_POINT, reason, advice)
    if contents["weights"] != weights_sha256(run.find_checkpoint(checkpoint)):
        raise RunError(
            f"the thresholds in {path} were chosen for other weights (checkpoint "
            f"{contents['checkpoint']}, {contents['date']}) than those of checkpoint {checkpoint}; "
            f"choose new ones with {remedy}"
        )
    return {
        name: get_label_thresholds(
            {
                class_name: point and OperatingPoint(**point)
                for class_name, point in class_points.items()
            },
            run.classes[name],
        )
        for name, class_points in contents["heads"].items()
    }
