"""95 % intervals of metrics: the percentile bootstrap over images, or over groups of them.

Images are matched once; a resampled data set is the same matches, each counted as often as its
image was drawn (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
Images of one group (patient, study, sequence) resemble each other, so a group is drawn as a
whole: drawing its images apart would make intervals too narrow.

What the draws are depends on the images' ids, their groups, `resamples` and `seed` alone: two
models judged on the same images see the same resampled data sets, which is what a paired
comparison needs.

Shape glossary: `R` resampled data sets, `P` images, `U` units (groups or images).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.structures.evaluation import Evaluator, Metric, ResamplableEvaluator

LEVEL = 0.95
LEAST_UNITS = 10
"""Below this many images or groups no interval is given: it would be far too narrow."""
FEW_UNITS = 30
"""Below this many a note says that intervals are still too narrow: of a mean over 10 images they
cover 0.90, over 15 0.91, over 30 0.93 instead of 0.95 (measured)."""
LEAST_DEFINED = 0.95
"""Share of the resampled data sets that must define a metric before it gets an interval."""
COUNTS_AT_ONCE = 4_000_000
"""Entries of one matrix of counts (32 MB)."""

Id = int | str
Values = dict[str, NDArray[np.float64]]
"""`metric` and `metric/class` -> `(R,)` values, NaN where not defined."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: Resampled data sets (`R`); 0: no intervals.
        seed: Of the draws; runs are compared in pairs at the same one.
    """

    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class ResamplingUnits:
    """What is drawn as a whole.

    Attributes:
        unit_name: `images` or `groups`.
        number: How many units there are (`U`).
        image_units: `(P,)` unit of each image, counted in an order that does not depend on that
            of the images.
        digest: Equal for two sets of images if ids and groups are.
    """

    unit_name: str
    number: int
    image_units: NDArray[np.int64]
    digest: str

    @classmethod
    def from_image_ids(
        cls, image_ids: Sequence[Id], groups: Mapping[Id, str] | None = None
    ) -> ResamplingUnits:
        """The units of images.

        Args:
            image_ids: Ids, each once.
            groups: Id -> group; an image without one is a unit of its own.
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

    def sample_counts(self, bootstrap: Bootstrap) -> Iterator[NDArray[np.int64]]:
        """`(r, P)` how often each image occurs in each resampled data set, some rows at a time.

        Every data set holds as many units as the original, drawn with replacement.
        """
        rng = np.random.default_rng(bootstrap.seed)
        images = max(self.number, len(self.image_units), 1)
        at_once = max(1, COUNTS_AT_ONCE // images)
        for start in range(0, bootstrap.resamples, at_once):
            rows = min(at_once, bootstrap.resamples - start)
            sampled_units = rng.integers(0, self.number, size=(rows, self.number))
            sampled_units += np.arange(rows)[:, None] * self.number
            counts = np.bincount(sampled_units.ravel(), minlength=rows * self.number)
            yield counts.reshape(rows, self.number)[:, self.image_units]


def resample_metrics(
    evaluator: ResamplableEvaluator, units: ResamplingUnits, bootstrap: Bootstrap
) -> Values:
    """Every metric of `evaluator` on every resampled data set.

    Args:
        evaluator: That has seen its images.
        units: Of `evaluator.image_ids`, in that order.
        bootstrap: How many, and which.
    """
    parts = [evaluator.resample(counts) for counts in units.sample_counts(bootstrap)]
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compute_interval(values: NDArray[np.float64] | None) -> tuple[float, float] | None:
    """The 2.5 and 97.5 percentiles of resampled values.

    Resamples that do not define the metric (a class that was not drawn) are left out; None where
    they are more than 5 %, for what is left would no longer stand for all.
    """
    if values is None or not len(values):
        return None
    defined = values[~np.isnan(values)]
    if len(defined) < LEAST_DEFINED * len(values):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def attach_intervals(
    metrics: Mapping[str, Metric], values: Mapping[str, NDArray[np.float64]]
) -> dict[str, Metric]:
    """`metrics` with an interval for every value that is defined and was resampled."""
    filled = {}
    for name, metric in metrics.items():
        by_class = {
            class_name: None
            if value is None
            else compute_interval(values.get(f"{name}/{class_name}"))
            for class_name, value in metric.per_class.items()
        }
        overall_interval = None if metric.value is None else compute_interval(values.get(name))
        filled[name] = replace(metric, interval=overall_interval, per_class_interval=by_class)
    return filled


@dataclass(frozen=True)
class Resampling:
    """An evaluation on many resampled data sets, and how those were drawn.

    Attributes:
        bootstrap: How many, and the seed.
        unit_name: `images` or `groups`.
        units: How many of them were judged.
        digests: Head -> digest of its images' ids and groups.
        values: `head/metric` and `head/metric/class` -> `(R,)`.
        notes: Sentences on what got no interval, and why.
        rules: `head/metric` -> how it is counted; numbers counted otherwise cannot be compared.
    """

    bootstrap: Bootstrap
    unit_name: str
    units: int
    digests: Mapping[str, str]
    values: Mapping[str, NDArray[np.float64]]
    notes: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in `metrics.json`."""
        return {
            "method": f"percentile bootstrap over {self.unit_name}",
            "level": LEVEL,
            "resamples": self.bootstrap.resamples,
            "seed": self.bootstrap.seed,
            "units": self.units,
            "notes": list(self.notes),
        }

    def save(self, path: Path) -> None:
        """Writes what a paired comparison needs, so that nothing is evaluated again for it."""
        metadata = {
            "resamples": self.bootstrap.resamples,
            "seed": self.bootstrap.seed,
            "over": self.unit_name,
            "units": self.units,
            "digests": dict(self.digests),
            "notes": list(self.notes),
            "names": list(self.values),
            "rules": dict(self.rules),
        }
        rows = [
            np.zeros((0, self.bootstrap.resamples)),
            *(column[None] for column in self.values.values()),
        ]
        np.savez_compressed(path, about=np.array(json.dumps(metadata)), values=np.concatenate(rows))

    @classmethod
    def load(cls, path: Path) -> Resampling:
        """The inverse of `save`.

        Raises:
            DataError: If the file is no such file.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                metadata, values = json.loads(str(archive["about"])), archive["values"]
            return cls(
                Bootstrap(int(metadata["resamples"]), int(metadata["seed"])),
                metadata["over"],
                int(metadata["units"]),
                metadata["digests"],
                dict(zip(metadata["names"], values, strict=True)),
                tuple(metadata["notes"]),
                metadata["rules"],
            )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} does not hold resampled metrics ({error}); evaluate the run again"
            ) from None


def resample_heads(
    evaluators: Mapping[str, Sequence[Evaluator]],
    groups: Mapping[Id, str],
    bootstrap: Bootstrap,
) -> Resampling:
    """Every metric of every head on the resampled data sets.

    Args:
        evaluators: By head; those that are not `Resampled` get no intervals, which is noted.
        groups: Id of an image -> its group, where it has one.
        bootstrap: How many, and which.
    """
    values: Values = {}
    rules: dict[str, str] = {}
    notes, digests, unit_name, most = [], {}, "images", 0
    for head, head_evaluators in evaluators.items():
        for evaluator in head_evaluators:
            if not isinstance(evaluator, ResamplableEvaluator):
                notes.append(f"{head}: {type(evaluator).__name__} cannot resample: no intervals")
                continue
            units = ResamplingUnits.from_image_ids(evaluator.image_ids, groups)
            most, unit_name = (
                max(most, units.number),
                "groups" if units.unit_name == "groups" else unit_name,
            )
            digests[head] = units.digest
            if units.number < LEAST_UNITS:
                notes.append(
                    f"{head}: only {units.number} {units.unit_name}, too few for intervals "
                    f"({LEAST_UNITS} at least)"
                )
                rules |= _collect_rules(head, evaluator, evaluator.compute())
                continue
            if caution := describe_few_units(units):
                notes.append(f"{head}: {caution}")
            resampled = resample_metrics(evaluator, units, bootstrap)
            values |= {f"{head}/{name}": column for name, column in resampled.items()}
            rules |= _collect_rules(head, evaluator, resampled)
    rarely_defined = [name for name, column in values.items() if _is_rarely_defined(column)]
    if rarely_defined:
        notes.append(
            f"defined on fewer than {LEAST_DEFINED:.0%} of the resampled data sets, hence without "
            f"interval: {', '.join(rarely_defined)}"
        )
    return Resampling(
        bootstrap, unit_name, most, digests, values, tuple(dict.fromkeys(notes)), rules
    )


def describe_few_units(units: ResamplingUnits) -> str:
    """A sentence where units are enough for intervals, but few; else nothing."""
    if units.number >= FEW_UNITS:
        return ""
    return (
        f"only {units.number} {units.unit_name}: intervals from fewer than {FEW_UNITS} are "
        "somewhat too "
        "narrow, p-values too small"
    )


def _collect_rules(head: str, evaluator: Evaluator, names: Iterable[str]) -> dict[str, str]:
    """How each metric of an evaluator is counted, by `head/metric`."""
    # `rules`: the protocol without what does not change the numbers, where an evaluator tells.
    rules = str(getattr(evaluator, "rules", evaluator.protocol))
    return {f"{head}/{name}": rules for name in names if "/" not in name}


def _is_rarely_defined(values: NDArray[np.float64]) -> bool:
    """Whether a metric is defined on some resampled data sets, but on too few."""
    defined = int((~np.isnan(values)).sum())
    return 0 < defined < LEAST_DEFINED * len(values)
