"""`RUN/operating_point.json`: thresholds chosen on val, kept with the run, used when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from time import strftime
from typing import Any

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.splits import Split, read_split
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.evaluation.froc import FrocEvaluator, FrocOptions
from resnet_tasks.evaluation.operating_point import OperatingPoint, Rule, choose, label_thresholds
from resnet_tasks.training.checkpoint import write_json
from resnet_tasks.training.judging import check_categories, file_sha256, versions, weights_sha256
from resnet_tasks.training.run import Run

FILE = "operating_point.json"

Points = dict[str, dict[str, OperatingPoint | None]]
"""Head -> class -> operating point."""


def choose_operating_points(
    run: Run,
    rule: Rule,
    *,
    options: FrocOptions | None = None,
    split: Split = "val",
    checkpoint: str = "last",
    data_root: Path | None = None,
) -> Points:
    """Chooses the thresholds of every detection head and keeps them in the run.

    Args:
        run: Whose heads predict.
        rule: What a threshold has to achieve.
        options: What counts as a hit.
        split: Of the recipe, to choose on; `test` would make numbers on it too good.
        checkpoint: `last` or `best`.
        data_root: Folder that holds data sets.

    Raises:
        RunError: If the run has no detection head.
        DataError: If the split annotates no boxes, or no threshold achieves the rule.
    """
    model = run.model(checkpoint)
    judges = {
        name: [FrocEvaluator(head.classes, options)]
        for name, head in model.named_heads.items()
        if head.task.name == FrocEvaluator.task
    }
    if not judges:
        raise RunError(
            f"{run.directory} has no detection head ({', '.join(model.named_heads)}); an operating "
            "point is the score from which on detections count"
        )
    files = read_split(run.recipe, split, data_root)
    for file in files:
        check_categories(file, run.labels, run.directory)
    recipe = run.recipe
    evaluation = evaluate(
        run.predictor(checkpoint),
        build_dataset(run.recipe, files, run.labels.categories),
        batch_size=recipe.evaluation.batch_size or recipe.training.batch_size,
        precision=recipe.training.precision,
        evaluators=judges,
        bootstrap=None,
    )
    points: Points = {}
    for name, (judge,) in judges.items():
        if name not in evaluation.evaluators:
            raise DataError(f"head {name}: {split} annotates no boxes; choose another --split")
        try:
            points[name] = choose(judge, rule)
        except DataError as error:
            raise DataError(f"head {name}, {split}: {error}") from None
    folder = run.checkpoint(checkpoint)
    first = next(iter(judges.values()))[0].options
    write_json(
        run.directory / FILE,
        {
            "rule": str(rule),
            "hit": first.model_dump(),
            "heads": {
                name: {each: point and point.to_json() for each, point in found.items()}
                for name, found in points.items()
            },
            "split": split,
            "pictures": len(evaluation.picture_ids),
            "data": {str(file.path): file_sha256(file.path) for file in files},
            "checkpoint": checkpoint,
            "weights": weights_sha256(folder),
            "versions": versions(),
            "date": strftime("%Y-%m-%d %H:%M:%S"),
        },
    )
    return points


def kept_thresholds(run: Run, checkpoint: str = "last") -> dict[str, tuple[float, ...]]:
    """Head -> threshold of every label, as kept in the run.

    Args:
        run: Whose thresholds are wanted.
        checkpoint: Whose weights predict.

    Raises:
        RunError: If none were chosen, or for other weights.
    """
    path = run.directory / FILE
    remedy = f"`resnet-tasks operating-point {run.directory} --checkpoint {checkpoint}`"
    if not path.is_file():
        raise RunError(f"{path} is not there; choose thresholds with {remedy}")
    kept = _read(path, remedy)
    if kept["weights"] != weights_sha256(run.checkpoint(checkpoint)):
        raise RunError(
            f"{path} was chosen for other weights (checkpoint {kept['checkpoint']}, "
            f"{kept['date']}) than those of checkpoint {checkpoint}; choose again with {remedy}"
        )
    return {
        name: label_thresholds(
            {each: point and OperatingPoint(**point) for each, point in found.items()},
            run.classes[name],
        )
        for name, found in kept["heads"].items()
    }


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("weights", "checkpoint", "date", "heads"):
            kept[key]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); choose again with {remedy}") from None
    return kept
