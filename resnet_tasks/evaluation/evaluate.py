"""Predictions of a model on a data set, judged head by head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from resnet_tasks.data.data_set_protocols import HasGroups
from resnet_tasks.errors import HeadError
from resnet_tasks.evaluation.evaluators import Evaluators, evaluators_of
from resnet_tasks.evaluation.intervals import Bootstrap, Resampling, resample_heads, with_intervals
from resnet_tasks.evaluation.picture_truths import is_annotated, truth_of
from resnet_tasks.evaluation.predicting import Alone, Found, Team, found_by
from resnet_tasks.evaluation.views import Predictor, plain_model
from resnet_tasks.model import TaskModel
from resnet_tasks.structures import Detailed, Metric, Sample


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on a data set.

    Attributes:
        metrics: `head/metric` -> value, with its interval where one was made. Heads whose truth is
            not annotated on any picture are left out.
        protocols: Head -> how its numbers are counted.
        evaluators: Head -> those who judged it, with all that they have seen.
        picture_ids: All pictures that were predicted, in order.
        resampling: How the intervals were made; None where none were asked for.
    """

    metrics: dict[str, Metric]
    protocols: dict[str, str]
    evaluators: Evaluators
    picture_ids: tuple[int | str, ...]
    resampling: Resampling | None = None

    def details(self) -> dict[str, dict[str, Any]]:
        """Head -> curves and tables of all its evaluators as JSON values (`Detailed.details`).

        Where two evaluators of a head bring the same key, the first one's stands; notes are joined.
        """
        found: dict[str, dict[str, Any]] = {}
        for head, evaluators in self.evaluators.items():
            parts = [each.details() for each in evaluators if isinstance(each, Detailed)]
            merged = {key: value for part in reversed(parts) for key, value in part.items()}
            notes = [note for part in parts for note in part.get("notes", ())]
            found[head] = {**merged, "notes": notes} if notes else merged
        return found


def evaluate(
    model: Predictor,
    dataset: Dataset[Sample],
    *,
    batch_size: int = 8,
    precision: str = "auto",
    workers: int = 0,
    evaluators: Evaluators | None = None,
    bootstrap: Bootstrap | None = Bootstrap(),  # noqa: B008  # frozen
    on_picture: Callable[[int, dict[str, Any]], None] | None = None,
    team: Team = Alone(),  # noqa: B008  # frozen
) -> Evaluation:
    """Metrics of every head of `model` on `dataset`, with 95 % intervals.

    Args:
        model: A `TaskModel` on its device, whose mode is kept, or `ManyViews` or `SlidingWindows`
            of one.
        dataset: Samples without augmentation. `CocoDataset` is judged on its files' own
            annotations, any other data set on its samples' targets, brought back to the original
            frame.
        batch_size: Pictures per forward; with `SlidingWindows` one after the other is predicted.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        workers: Loader processes.
        evaluators: Who judges each head; default: `evaluators_of` the model's heads.
        bootstrap: How intervals are made; None: no intervals.
        on_picture: Called with (position, {head: prediction}) after each picture.
        team: Processes that share the pictures, each predicted once. The first one judges; the
            others return an evaluation without metrics.

    Raises:
        HeadError: If two evaluators of a head give a metric of the same name.
    """
    heads = plain_model(model).named_heads
    jury = _Jury(evaluators_of(heads) if evaluators is None else evaluators)
    found = found_by(model, dataset, batch_size, precision=precision, workers=workers, team=team)
    for each in found:
        jury.hear(plain_model(model), dataset, each)
        if on_picture is not None:
            on_picture(each[0], each[2])
    return jury.verdict(bootstrap)


def evaluate_in_turn(
    parts: Iterable[tuple[Predictor, Dataset[Sample]]],
    evaluators: Evaluators,
    *,
    batch_size: int = 8,
    precision: str = "auto",
    bootstrap: Bootstrap | None = Bootstrap(),  # noqa: B008  # frozen
) -> Evaluation:
    """Metrics over the pictures of several data sets together, each predicted by its own model.

    That is what the folds of a cross-validation give together: every picture is judged once, by
    the model that has not seen it.

    Args:
        parts: Models of the same heads, each with its pictures, whose ids differ in all of them.
            One is asked for after the other, so that they need not be in memory together.
        evaluators: Who judges each head.
        batch_size: As in `evaluate`.
        precision: As in `evaluate`.
        bootstrap: As in `evaluate`.

    Raises:
        HeadError: As in `evaluate`.
    """
    jury = _Jury(evaluators)
    for model, dataset in parts:
        for each in found_by(model, dataset, batch_size, precision=precision):
            jury.hear(plain_model(model), dataset, each)
    return jury.verdict(bootstrap)


@dataclass
class _Jury:
    """The evaluators of all heads, and the pictures that they were shown.

    Attributes:
        judges: By head.
        seen: Heads that had something to judge.
        ids: Of the pictures, in order.
        groups: Id of a picture -> its group, where it has one.
    """

    judges: Evaluators
    seen: set[str] = field(default_factory=set)
    ids: list[int | str] = field(default_factory=list)
    groups: dict[int | str, str] = field(default_factory=dict)

    def hear(self, model: TaskModel, dataset: Dataset[Sample], found: Found) -> None:
        """Takes the predictions for one picture of a data set."""
        index, image_id, here = found
        self.ids.append(image_id)
        group = dataset.group(index) if isinstance(dataset, HasGroups) else None
        if group is not None:
            self.groups[image_id] = group
        for name, head in model.named_heads.items():
            truth = truth_of(dataset, index, model.label_tables[name])
            if is_annotated(head.task, truth):
                self.seen.add(name)
                for evaluator in self.judges.get(name, ()):
                    evaluator.update(here[name], truth)

    def verdict(self, bootstrap: Bootstrap | None) -> Evaluation:
        """All metrics over what was taken."""
        judged = {name: tuple(each) for name, each in self.judges.items() if name in self.seen}
        metrics = _metrics(judged)
        protocols = {name: " ".join(one.protocol for one in each) for name, each in judged.items()}
        if bootstrap is None or not bootstrap.resamples:
            return Evaluation(metrics, protocols, judged, tuple(self.ids))
        resampling = resample_heads(judged, self.groups, bootstrap)
        metrics = with_intervals(metrics, resampling.values)
        return Evaluation(metrics, protocols, judged, tuple(self.ids), resampling)


def _metrics(evaluators: Evaluators) -> dict[str, Metric]:
    """`head/metric` of all evaluators.

    Raises:
        HeadError: If two evaluators of a head give a metric of the same name.
    """
    metrics: dict[str, Metric] = {}
    for head, each in evaluators.items():
        parts = [evaluator.compute() for evaluator in each]
        names = Counter(name for part in parts for name in part)
        twice = [name for name, times in names.items() if times > 1]
        if twice:
            raise HeadError(
                f"head {head}: more than one of its evaluators "
                f"({', '.join(type(one).__name__ for one in each)}) gives {', '.join(twice)}; "
                "every metric of a head needs a name of its own"
            )
        metrics |= {f"{head}/{name}": value for part in parts for name, value in part.items()}
    return metrics
