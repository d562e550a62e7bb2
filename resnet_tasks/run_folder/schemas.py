"""Schemas of the files of a run folder.

A schema lists the keys that some command reads; files may contain further keys, which are for
information only. Keys without a default are required.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

Number = Annotated[int, Meta(ge=0, le=10**12)]
"""Number of updates, epochs or images."""
Fraction = Annotated[float, Meta(ge=0, le=1)]
ShortText = Annotated[str, Meta(max_length=1000)]
"""Date, unit, or name of a checkpoint, of a method or of a metric."""
Interval = tuple[float, float]
Digests = dict[str, str]
Values = dict[str, float | None]
ImageId = int | str


class BackboneSettings(Struct):
    """Settings of the backbone in `recipe.yaml`; other settings are validated as `Recipe`."""

    name: str
    layers: list[int] | None = None
    block: str | None = None


class RecipeOfBackbone(Struct):
    """Content of `recipe.yaml`, as far as the weights of its backbone need it."""

    backbone: BackboneSettings


class HeadClasses(Struct):
    """Classes of a head in `classes.json`."""

    classes: list[str]
    category_ids: list[int]
    mapping: list[int]
    unlabeled: int


class Classes(Struct):
    """Content of `classes.json`; `CategoryMap` checks the categories."""

    categories: list[dict[str, Any]]
    heads: dict[str, HeadClasses]


class Fingerprint(Struct, forbid_unknown_fields=True):
    """Fingerprint of an annotation file and its images in `data.json`; see `FileFingerprint`."""

    name: str
    annotations: str
    images: str
    label_maps: str


class Data(Struct):
    """Content of `data.json`."""

    splits: dict[str, list[Fingerprint]]
    accepted_changes: list[dict[str, Any]]


class Scaling(Struct):
    """Scaling of the confidences of a head in `calibration.json`."""

    field: str
    slope: float
    intercept: float


class Calibration(Struct):
    """Content of `calibration.json`."""

    heads: dict[str, Scaling]
    weights: str
    checkpoint: str | None = None


class ClassOperatingPoint(Struct):
    """Threshold of a class in `operating_point.json`, and the rates at it."""

    threshold: Fraction
    sensitivity: Fraction
    precision: Fraction
    f1: Fraction
    false_positives: Annotated[float, Meta(ge=0)]
    objects: Number


class OperatingPoints(Struct):
    """Content of `operating_point.json`."""

    heads: dict[str, dict[str, ClassOperatingPoint | None]]
    weights: str
    checkpoint: ShortText
    date: ShortText


def _require_ordered(interval: Interval | None) -> None:
    if interval is not None and interval[0] > interval[1]:
        low, high = interval
        raise ValueError(f"expected an interval from low to high, got {low:g} to {high:g}")


class MetricEntry(Struct):
    """Metric in `metrics.json`."""

    value: float | None
    interval: Interval | None = None
    per_class: Values | UnsetType = UNSET
    per_class_interval: dict[str, Interval | None] | UnsetType = UNSET
    unit: ShortText = ""
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        _require_ordered(self.interval)
        for interval in (self.per_class_interval or {}).values():
            _require_ordered(interval)


class SubgroupComparison(Struct):
    """Comparison of a subgroup with all other images in `metrics.json`."""

    difference: float
    is_far_below: bool
    interval: Interval | None = None

    def __post_init__(self) -> None:
        _require_ordered(self.interval)


class SubgroupEntry(Struct):
    """Metrics of a head on a subgroup of the images in `metrics.json`."""

    key: str
    subgroup: str
    images: Number
    main_metric: ShortText
    metrics: dict[str, MetricEntry]
    head: str = ""
    comparison: SubgroupComparison | None = None


class Subgroups(Struct):
    """Metrics by subgroup of the images in `metrics.json`."""

    results: list[SubgroupEntry]
    notes: list[str]
    warnings: list[str]


class Intervals(Struct):
    """Method of the intervals in `metrics.json`."""

    method: ShortText = ""
    resamples: Number = 0
    units: Number = 0
    notes: list[str] = []


class Metrics(Struct):
    """Content of `metrics.json`."""

    metrics: dict[str, MetricEntry]
    data: Digests | None = None
    checkpoint: ShortText = ""
    weights: str | list[str] = ""
    protocol: dict[str, Any] | None = None
    intervals: Intervals | None = None
    versions: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    subgroups: Subgroups | None = None
    images: Number = 0
    date: ShortText = ""


class HeadDetails(Struct):
    """Head in `details.json`; the report reads each curve separately and names those that fail."""

    notes: list[str] = []


Details = dict[str, HeadDetails]
"""Content of `details.json`."""


class Resamples(Struct):
    """Entry `about` of `resamples.npz`."""

    resamples: int
    seed: int
    over: str
    units: int
    digests: Digests
    notes: list[str]
    names: list[str]
    rules: dict[str, str]
    head_units: dict[str, int]


class InitialWeights(Struct):
    """Weights that a training started from."""

    license: str


class StartEvent(Struct):
    """Line of `log.jsonl` for a start or a resume."""

    time: str = ""
    weights: InitialWeights | None = None


class StepEvent(Struct):
    """Line of `log.jsonl` for an optimizer step."""

    update: Number
    epoch: Number
    losses: Values = {}
    learning_rate: float | None = None


class EvaluationEvent(Struct):
    """Line of `log.jsonl` for an evaluation during training."""

    epoch: Number
    metrics: Values = {}


class EndEvent(Struct):
    """Line of `log.jsonl` for the end of a training."""

    time: str = ""
    seconds: Annotated[float, Meta(ge=0, le=10**12)] | None = None


class Event(Struct):
    """Line of `log.jsonl` for any event, such as a loss spike."""

    event: str
    epoch: Number = 0


EVENTS: dict[str, type[Struct]] = {
    "start": StartEvent,
    "step": StepEvent,
    "evaluation": EvaluationEvent,
    "end": EndEvent,
}
"""Event of `log.jsonl` -> schema; the others, which no command reads, have the schema `Event`."""


class UnreadableImageLine(Struct, forbid_unknown_fields=True):
    """Line of `unreadable_images.jsonl` of a run."""

    image_id: ImageId
    file: str
    reason: str
    update: Number
    epoch: Number


class ResultEntry(Struct):
    """Box, mask or classes of an image in `predictions/HEAD.json` (results format of COCO)."""

    image_id: ImageId
    category_id: int | UnsetType = UNSET
    category_ids: list[int] | UnsetType = UNSET
    score: float | UnsetType = UNSET
    scores: list[float] | UnsetType = UNSET
    bbox: tuple[float, float, float, float] | UnsetType = UNSET
    segmentation: dict[str, Any] | list[Any] | UnsetType = UNSET


Results = list[ResultEntry]
"""Content of `predictions/HEAD.json`."""


class Position(Struct, forbid_unknown_fields=True):
    """Position of the training in `state.pt`; see `TrainingProgress`."""

    epoch: int = 0
    batch: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    judged: int = 0
    best: float | None = None
    seconds: float = 0.0
    stale: int = 0
    best_by_head: dict[str, float] = {}


class OptimizerState(Struct):
    """State of the optimizer in `state.pt`."""

    state: dict[Any, Any]
    param_groups: list[dict[str, Any]]


class TrainingState(Struct):
    """Content of `state.pt`."""

    position: Position
    optimizer: OptimizerState
    batches_per_epoch: int
    threads: int
    settings: dict[str, Any]
    scaler: dict[str, Any]
    balancing: dict[str, Any] = {}


class ReplayBatch(Struct):
    """Batch in `replay.json`."""

    geometries: list[dict[str, list[float]]]
    image_ids: list[ImageId]
    file_names: list[str]
    seeds: list[int]


class Replay(Struct):
    """Content of `replay.json`; losses are text, because JSON has no NaN."""

    batches: list[ReplayBatch]
    update: int
    seed: int
    precision: str
    deterministic: bool
    threads: int
    counts: list[dict[str, float]]
    losses: dict[str, str]
    trouble: str
    frozen: list[str]
    weights: dict[str, float]


class Frame(Struct, forbid_unknown_fields=True):
    """Image or video frame in a line of `stream.jsonl`."""

    file_name: str
    frame: int | None = None
    seconds: float | None = None
    size: tuple[int, int] | None = None
    entries: dict[str, list[dict[str, Any]]] = {}
    reason: str = ""


class StreamLine(Struct, forbid_unknown_fields=True):
    """Line of `stream.jsonl`: results of images or frames that were predicted together."""

    unit: int
    batch: int
    frames: list[Frame]
    is_last: bool = True
    note: str = ""
    video: str = ""
