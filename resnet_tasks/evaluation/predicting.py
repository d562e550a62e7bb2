"""What a model predicts for every picture of a data set, alone or as one of a team."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from torch.utils.data import Dataset

from resnet_tasks.data.loaders import make_loader, part_of
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.sliding import HasPictures, SlidingWindows
from resnet_tasks.evaluation.views import (
    ManyViews,
    Predictor,
    at_scale,
    plain_model,
    predict_at,
    scales_of,
)
from resnet_tasks.model import TaskModel, resolve_precision
from resnet_tasks.structures import Batch, Sample

Found = tuple[int, int | str, dict[str, Any]]
"""Position of a picture, its id, and {head: prediction}."""


class Team(Protocol):
    """The processes that evaluate together; the first one judges what all of them predicted."""

    @property
    def index(self) -> int:
        """Which one this is, from 0."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def collect(self, value: list[Found]) -> list[list[Found]]:
        """The values of all of them, by index, in the first one; nothing in the others."""
        ...


@dataclass(frozen=True)
class Alone:
    """A process that evaluates by itself."""

    index: int = 0
    count: int = 1

    def collect(self, value: list[Found]) -> list[list[Found]]:
        """The value itself."""
        return [value]


def found_by(
    model: Predictor,
    dataset: Dataset[Sample],
    batch_size: int,
    *,
    precision: str,
    workers: int = 0,
    team: Team = Alone(),
) -> Iterator[Found]:
    """What a model predicts for the pictures of a data set, in their order."""
    length = len(dataset)  # type: ignore[arg-type]
    together = team.count if isinstance(model, SlidingWindows) else batch_size
    batches = [list(range(i, min(i + together, length))) for i in range(0, length, together)]
    chosen = resolve_precision(precision, plain_model(model).device)
    parts = [part_of(each, team.index, team.count) for each in batches]
    for here in _predicted(model, dataset, parts, precision=chosen, workers=workers):
        yield from chain.from_iterable(team.collect(here))


def _predicted(
    model: Predictor,
    dataset: Dataset[Sample],
    parts: Sequence[Sequence[int]],
    *,
    precision: str,
    workers: int,
) -> Iterator[list[Found]]:
    """What is found on the pictures of every part, in order."""
    if isinstance(model, SlidingWindows):
        for part in parts:
            yield [_in_windows(model, dataset, index, precision) for index in part]
        return
    chosen = [each for each in parts if each]
    loaders = [
        iter(make_loader(at_scale(dataset, scale), chosen, workers=workers))
        for scale in scales_of(model)
    ]
    for part in parts:
        yield _in_views(model, part, [next(each) for each in loaders], precision) if part else []


def _in_views(
    model: TaskModel | ManyViews, positions: Sequence[int], views: Sequence[Batch], precision: str
) -> list[Found]:
    """What is found on every picture of a batch in all its sizes."""
    predictions = predict_at(model, views, precision=precision)
    return [
        (index, views[0].image_ids[i], {name: each[i] for name, each in predictions.items()})
        for i, index in enumerate(positions)
    ]


def _in_windows(
    model: SlidingWindows, dataset: Dataset[Sample], index: int, precision: str
) -> Found:
    """What is found on one picture, which is read window by window.

    Raises:
        DataError: If the data set cannot do that.
    """
    if not isinstance(dataset, HasPictures):
        raise DataError(
            f"{type(dataset).__name__} has no prepared(index), which sliding windows need; "
            "evaluate whole pictures"
        )
    return (
        index,
        dataset.image_id(index),
        model.predict(dataset.prepared(index), precision=precision),
    )
