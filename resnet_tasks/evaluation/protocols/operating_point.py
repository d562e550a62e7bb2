"""The score from which on a detection is acted upon, chosen class by class by a stated rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator

Kind = Literal["max F1", "sensitivity", "false positives"]
Floats = NDArray[np.float64]

_FORMS = "`max-f1`, `sensitivity>=0.9`, `false-positives<=1` (per image)"


@dataclass(frozen=True)
class ThresholdRule:
    """What a threshold has to achieve.

    Attributes:
        kind: `max F1`: the best harmonic mean of precision and sensitivity; `sensitivity`: at least
            `value`, with as few false positives as possible; `false positives`: at most `value` per
            image, with as much sensitivity as possible.
        value: The bound; 0 for `max F1`.
    """

    kind: Kind
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> ThresholdRule:
        """The rule that a user wrote.

        Raises:
            DataError: If it is none, or its bound is out of range.
        """
        # Signs before numbers stay: a bound below 0 is refused, not read as one above.
        plain = re.sub(r"[\s_]+|-(?![\d.])", "", text.lower())
        if plain in ("maxf1", "f1"):
            return cls("max F1")
        match = re.fullmatch(r"(sensitivity>=|falsepositives(?:perimage)?<=)(\d*\.?\d+)", plain)
        if match is None:
            raise DataError(f"rule {text!r} is not known; rules are {_FORMS}")
        value = float(match[2])
        if match[1].startswith("false"):
            return cls("false positives", value)
        if not 0 < value <= 1:
            raise DataError(f"rule {text!r}: a sensitivity lies above 0 and is at most 1")
        return cls("sensitivity", value)

    def __str__(self) -> str:
        if self.kind == "max F1":
            return "max F1"
        if self.kind == "sensitivity":
            return f"sensitivity >= {self.value:g}"
        return f"false positives per image <= {self.value:g}"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it gives on the images it was chosen on.

    Attributes:
        threshold: Detections with at least this score count.
        sensitivity: Share of the objects that are found.
        precision: Objects found over objects found and false positives.
        f1: Harmonic mean of the two.
        false_positives: Per image.
        objects: How many there are.
    """

    threshold: float
    sensitivity: float
    precision: float
    f1: float
    false_positives: float
    objects: int

    def to_json(self) -> dict[str, Any]:
        """As plain numbers."""
        return asdict(self)


def choose_thresholds(
    evaluator: FrocEvaluator, rule: ThresholdRule
) -> dict[str, OperatingPoint | None]:
    """The operating point of every class, by the hits and false positives of a FROC.

    Args:
        evaluator: That has seen the images to choose on.
        rule: What to achieve, by every class for itself.

    Returns:
        Class -> its point, and `all` -> that of all classes under one threshold; None for a class
        that these images hold no object of, and where F1 is 0 at every threshold.

    Raises:
        DataError: If no threshold achieves the rule; the message says for which class, and what can
            be achieved.
    """
    images = len(evaluator.image_ids)
    points: dict[str, OperatingPoint | None] = {}
    for name, label in (("all", None), *((n, i) for i, n in enumerate(evaluator.classes))):
        objects, false = evaluator.get_decision_scores(label)
        if not len(objects):
            if label is None:
                raise DataError(
                    f"there is no object of {', '.join(evaluator.classes)} in the {images} "
                    "images; an operating point is chosen on images with objects"
                )
            points[name] = None
            continue
        table = _build_table(objects, false, images)
        is_found = any(point.sensitivity > 0 for point in table)
        if label is not None and rule.kind == "max F1" and not is_found:
            points[name] = None
            continue
        points[name] = _choose_best(table, rule, "all classes together" if label is None else name)
    return points


def get_label_thresholds(
    points: Mapping[str, OperatingPoint | None], classes: tuple[str, ...]
) -> tuple[float, ...]:
    """Threshold of every label; classes without a point take that of all classes together."""
    overall = points["all"]
    assert overall is not None
    selected_points = (points[name] or overall for name in classes)
    return tuple(point.threshold for point in selected_points)


def _build_table(objects: Floats, false: Floats, images: int) -> list[OperatingPoint]:
    """What every threshold gives, from the highest score down."""
    hit, missed = np.sort(objects[np.isfinite(objects)]), np.sort(false)
    levels = np.unique(np.concatenate((hit, missed)))[::-1]
    num_hits = len(hit) - np.searchsorted(hit, levels, side="left")
    num_false = len(missed) - np.searchsorted(missed, levels, side="left")
    total = len(objects)
    return [
        OperatingPoint(
            threshold=float(level),
            sensitivity=right / total,
            precision=right / (right + false_ones),
            f1=2 * right / (right + false_ones + total),
            false_positives=false_ones / images,
            objects=total,
        )
        for level, right, false_ones in zip(
            levels.tolist(), num_hits.tolist(), num_false.tolist(), strict=True
        )
    ]


def _choose_best(table: list[OperatingPoint], rule: ThresholdRule, name: str) -> OperatingPoint:
    """The point that the rule chooses; of equally good ones that with the highest threshold."""
    useful_points = [point for point in table if point.sensitivity > 0]
    if not useful_points:
        raise DataError(f"{name}: no object is found at any score; there is nothing to choose")
    if rule.kind == "max F1":
        return max(useful_points, key=lambda point: point.f1)
    if rule.kind == "sensitivity":
        feasible = [point for point in useful_points if point.sensitivity >= rule.value]
        if not feasible:
            most = useful_points[-1]
            raise DataError(
                f"{name}: no threshold reaches {rule}; the most is {most.sensitivity:.3f}, with "
                f"{most.false_positives:.3g} false positives per image"
            )
        return feasible[0]
    feasible = [point for point in useful_points if point.false_positives <= rule.value]
    if not feasible:
        least = useful_points[0]
        raise DataError(
            f"{name}: no threshold that finds anything keeps to {rule}; the fewest is "
            f"{least.false_positives:.3g}, with sensitivity {least.sensitivity:.3f}"
        )
    return max(feasible, key=lambda point: point.sensitivity)
