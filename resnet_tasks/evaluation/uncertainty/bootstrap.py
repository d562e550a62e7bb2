"""95 % intervals of metrics by resampling images, or groups of images.

Images are matched once. A resampled dataset consists of the matches of half of the images, drawn
without replacement; `half_samples.py` computes intervals from their metrics. Images of one group
(patient, study, sequence) resemble each other, so a group is drawn as a whole. Drawing its images
independently would make intervals too narrow.

The draws depend only on the images' ids, their groups, `resamples` and `seed`. Two models that are
evaluated on the same images therefore see the same resampled datasets, which a paired comparison
requires.

Shape glossary: `R` resampled datasets, `P` images, `U` units (groups or images).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import format_list, shorten_name
from resnet_tasks.evaluation.uncertainty.half_samples import (
    DISTANCE,
    FRACTION,
    LEAST_DEFINED,
    LEVEL,
    compute_interval,
)
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.number_formats import Count
from resnet_tasks.run_folder.files import RESAMPLES
from resnet_tasks.run_folder.read import make_damage_error, parse_object, read_arrays
from resnet_tasks.structures.evaluation import Evaluator, Metric, ResamplableEvaluator

LEAST_UNITS = 10
"""Minimum number of images or groups for an interval; with fewer it would be far too narrow."""
FEW_UNITS = 100
"""Number of images or groups below which a note states the measured coverage."""
MEASURED_COVERAGE = {10: (92, 96), 20: (89, 97), 40: (88, 96)}
"""Number of images -> lowest and highest coverage of AP, AP50, mIoU and Dice, %, over settings of
`benchmarks/coverage.py`."""
COUNTS_AT_ONCE = 4_000_000
"""Maximum number of entries of one matrix of counts (32 MB)."""

Id = int | str
Values = dict[str, NDArray[np.float64]]
"""`metric` and `metric/class` -> `(R,)` values, NaN where undefined."""


@dataclass(frozen=True)
class Bootstrap:
    """Options of the intervals.

    Attributes:
        resamples: Number of resampled datasets (`R`); 0: no intervals.
        seed: Seed of the draws; a paired comparison requires equal seeds.
    """

    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class ResamplingUnits:
    """Units of the draws, each of which is drawn as a whole.

    Attributes:
        unit_name: `images` or `groups`.
        number: Number of units (`U`).
        image_units: `(P,)` unit of each image; the numbering does not depend on the order of the
            images.
        digest: SHA-256 hex digest of the ids and groups of the images.
    """

    unit_name: str
    number: int
    image_units: NDArray[np.int64]
    digest: str

    @classmethod
    def from_image_ids(
        cls, image_ids: Sequence[Id], groups: Mapping[Id, str] | None = None
    ) -> ResamplingUnits:
        """Create the units of images.

        Args:
            image_ids: Unique image ids.
            groups: Image id -> group; an image without a group is a separate unit.
        """
        image_groups = groups or {}
        keys = [
            ("group", image_groups[image_id])
            if image_id in image_groups
            else (type(image_id).__name__, str(image_id))
            for image_id in image_ids
        ]
        order = {key: number for number, key in enumerate(sorted(set(keys)))}
        pairs = sorted(zip(map(repr, image_ids), map(repr, keys), strict=True))
        return cls(
            unit_name="groups" if any(kind == "group" for kind, _ in keys) else "images",
            number=len(order),
            image_units=np.asarray([order[key] for key in keys], np.int64),
            digest=hashlib.sha256(repr(pairs).encode()).hexdigest(),
        )

    def __str__(self) -> str:
        noun = self.unit_name.removesuffix("s")
        return f"{Count(self.number):{noun}}"

    def sample_counts(self, bootstrap: Bootstrap) -> Iterator[NDArray[np.int64]]:
        """Yield the number of times each image occurs in each resampled dataset, in chunks.

        Every dataset has half of the units of the original one (rounded down), drawn without
        replacement.

        Yields:
            `(r, P)` counts of `r` datasets, 0 or 1.
        """
        rng = np.random.default_rng(bootstrap.seed)
        images = max(self.number, len(self.image_units), 1)
        at_once = max(1, COUNTS_AT_ONCE // images)
        for start in range(0, bootstrap.resamples, at_once):
            # No local variable may keep a chunk in memory while its metrics are computed.
            yield self._sample_chunk(rng, min(at_once, bootstrap.resamples - start))

    def _sample_chunk(self, rng: np.random.Generator, rows: int) -> NDArray[np.int64]:
        keys = rng.random((rows, self.number))
        middle = np.partition(keys, self.number // 2, axis=1)[:, self.number // 2, None]
        counts = (keys < middle).astype(np.int64)
        return counts[:, self.image_units]


def resample_metrics(
    evaluator: ResamplableEvaluator, units: ResamplingUnits, bootstrap: Bootstrap
) -> Values:
    """Compute every metric of `evaluator` on every resampled dataset.

    Args:
        evaluator: Evaluator with its images.
        units: Units of `evaluator.image_ids`, in that order.
        bootstrap: Number of resamples, and seed.
    """
    parts = [evaluator.resample(counts) for counts in units.sample_counts(bootstrap)]
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def attach_intervals(
    metrics: Mapping[str, Metric], values: Mapping[str, NDArray[np.float64]], num_units: int
) -> dict[str, Metric]:
    """Add an interval to every value of `metrics` that is defined and was resampled.

    Args:
        metrics: `metric` -> metric.
        values: `metric` and `metric/class` -> `(R,)` values on half samples.
        num_units: Number of units.
    """

    def find_interval(key: str, value: float | None, unit: str) -> tuple[float, float] | None:
        if value is None or key not in values:
            return None
        return compute_interval(values[key], value, num_units, DISTANCE if unit else FRACTION)

    return {
        name: replace(
            metric,
            interval=find_interval(name, metric.value, metric.unit),
            per_class_interval={
                label: find_interval(f"{name}/{label}", value, metric.unit)
                for label, value in metric.per_class.items()
            },
        )
        for name, metric in metrics.items()
    }


@dataclass(frozen=True)
class Resampling:
    """Evaluation on many resampled datasets, with the parameters of the draws.

    Attributes:
        bootstrap: Number of resamples, and seed.
        unit_name: `images` or `groups`.
        units: Number of evaluated units; the maximum over the heads.
        digests: Head name -> digest of its images' ids and groups.
        values: `head/metric` and `head/metric/class` -> `(R,)`.
        notes: Sentences on metrics without interval, and the reasons.
        rules: `head/metric` -> counting rules; metrics with different rules cannot be compared.
        head_units: Head name -> number of its units; default: `units`.
    """

    bootstrap: Bootstrap
    unit_name: str
    units: int
    digests: Mapping[str, str]
    values: Mapping[str, NDArray[np.float64]]
    notes: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)
    head_units: Mapping[str, int] = field(default_factory=dict)

    def count_units(self, name: str) -> int:
        """Return the number of units of the head of a metric `head/metric`."""
        return self.head_units.get(name.partition("/")[0], self.units)

    def attach_intervals(self, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
        """Add an interval to every value of `head/metric` that is defined and was resampled."""
        return {
            key: attached
            for name, metric in metrics.items()
            for key, attached in attach_intervals(
                {name: metric}, self.values, self.count_units(name)
            ).items()
        }

    def to_json(self) -> dict[str, Any]:
        """Convert the parameters to their entry in `metrics.json`."""
        return {
            "method": f"half samples of {self.unit_name}",
            "level": LEVEL,
            "resamples": self.bootstrap.resamples,
            "seed": self.bootstrap.seed,
            "units": self.units,
            "notes": list(self.notes),
        }

    def save(self, path: Path) -> None:
        """Write the resampled values, so that a paired comparison needs no new evaluation."""
        metadata = {
            "resamples": self.bootstrap.resamples,
            "seed": self.bootstrap.seed,
            "over": self.unit_name,
            "units": self.units,
            "digests": dict(self.digests),
            "notes": list(self.notes),
            "names": list(self.values),
            "rules": dict(self.rules),
            "head_units": dict(self.head_units),
        }
        rows = [
            np.zeros((0, self.bootstrap.resamples)),
            *(column[None] for column in self.values.values()),
        ]
        about = np.array(encode_json(RESAMPLES.add_version(metadata)))
        np.savez_compressed(path, about=about, values=np.concatenate(rows))

    @classmethod
    def load(cls, path: Path) -> Resampling:
        """Read a file that `save` wrote.

        Raises:
            RunError: If the file cannot be read, is damaged or has another format version.
        """
        arrays = read_arrays(path, RESAMPLES, ("about", "values"))
        metadata = parse_object(str(arrays["about"]), path, RESAMPLES)
        values, names, resamples = arrays["values"], metadata["names"], metadata["resamples"]
        if values.dtype != np.float64 or values.shape != (len(names), resamples):
            reason = (
                f"expected float64 values of shape {(len(names), resamples)}, got {values.dtype} "
                f"of shape {values.shape}"
            )
            raise make_damage_error(path, RESAMPLES, reason)
        return cls(
            Bootstrap(resamples, metadata["seed"]),
            metadata["over"],
            metadata["units"],
            metadata["digests"],
            dict(zip(names, values, strict=True)),
            tuple(metadata["notes"]),
            metadata["rules"],
            metadata["head_units"],
        )


def resample_heads(
    evaluators: Mapping[str, Sequence[Evaluator]],
    groups: Mapping[Id, str],
    bootstrap: Bootstrap,
) -> Resampling:
    """Compute every metric of every head on the resampled datasets.

    Args:
        evaluators: Head name -> evaluators; those that are not a `ResamplableEvaluator` get no
            intervals, but a note.
        groups: Image id -> group, for images that have one.
        bootstrap: Number of resamples, and seed.
    """
    values: Values = {}
    rules: dict[str, str] = {}
    head_units: dict[str, int] = {}
    notes, digests, unit_name, most = [], {}, "images", 0
    for head, head_evaluators in evaluators.items():
        for evaluator in head_evaluators:
            if not isinstance(evaluator, ResamplableEvaluator):
                notes.append(
                    f"{head}: no intervals, because {type(evaluator).__name__} does not support "
                    "resampling"
                )
                continue
            units = ResamplingUnits.from_image_ids(evaluator.image_ids, groups)
            most, unit_name = (
                max(most, units.number),
                "groups" if units.unit_name == "groups" else unit_name,
            )
            digests[head], head_units[head] = units.digest, units.number
            if units.number < LEAST_UNITS:
                notes.append(
                    f"{head}: only {units}, too few for intervals (at least {LEAST_UNITS} needed)"
                )
                rules |= _collect_rules(head, evaluator, evaluator.compute())
                continue
            if caution := describe_few_units(units):
                notes.append(f"{head}: {caution}")
            resampled = resample_metrics(evaluator, units, bootstrap)
            values |= {f"{head}/{name}": column for name, column in resampled.items()}
            rules |= _collect_rules(head, evaluator, resampled)
    rarely_defined = [name for name, column in values.items() if _is_rarely_defined(column)]
    notes += _describe_rarely_defined(rarely_defined)
    return Resampling(
        bootstrap, unit_name, most, digests, values, tuple(dict.fromkeys(notes)), rules, head_units
    )


def _describe_rarely_defined(names: Sequence[str]) -> list[str]:
    """Return a note per head on its metrics and classes without an interval.

    Args:
        names: `head/metric` of metrics, and `head/metric/class` of their values per class.
    """
    reason = (
        f"fewer than {LEAST_DEFINED:.0%} of the resampled datasets define them (null in "
        "metrics.json)"
    )
    metrics: dict[str, list[str]] = {}
    classes: dict[str, dict[str, None]] = {}
    for name in names:
        head, metric, *label = name.split("/", 2)
        if label:
            classes.setdefault(head, {})[label[0]] = None
        else:
            metrics.setdefault(head, []).append(metric)
    notes = [
        f"{head}: no interval for {', '.join(metric_names)}: {reason}"
        for head, metric_names in metrics.items()
    ]
    for head, labels in classes.items():
        listed = format_list(map(shorten_name, labels))
        notes.append(f"{head}: no intervals for {Count(len(labels)):class} ({listed}): {reason}")
    return notes


def describe_few_units(units: ResamplingUnits) -> str:
    """Return the measured coverage if units are sufficient for intervals, but few; else `""`."""
    if units.number >= FEW_UNITS:
        return ""
    size = max((size for size in MEASURED_COVERAGE if size <= units.number), default=LEAST_UNITS)
    lowest, highest = MEASURED_COVERAGE[size]
    return (
        f"only {units}: in simulations with {size}, 95 % intervals of AP, "
        f"mIoU and Dice contained the true value in {lowest} to {highest} % of cases"
    )


def _collect_rules(head: str, evaluator: Evaluator, names: Iterable[str]) -> dict[str, str]:
    """Return the counting rules of each metric of an evaluator, by `head/metric`."""
    # `rules`, if the evaluator has it, is the protocol without details that do not change the
    # numbers.
    rules = str(getattr(evaluator, "rules", evaluator.protocol))
    return {f"{head}/{name}": rules for name in names if "/" not in name}


def _is_rarely_defined(values: NDArray[np.float64]) -> bool:
    """Return whether a metric is defined on some resampled datasets, but on too few."""
    defined = int((~np.isnan(values)).sum())
    return 0 < defined < LEAST_DEFINED * len(values)
