"""Operating points: score thresholds of detections, chosen per class by an explicit rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError, format_list
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator
from resnet_tasks.number_formats import Count

Kind = Literal["max F1", "sensitivity", "false positives"]
Floats = NDArray[np.float64]

_FORMS = "`max-f1`, `sensitivity>=0.9`, `false-positives<=1` (per image)"


@dataclass(frozen=True)
class ThresholdRule:
    """Criterion for a threshold.

    Attributes:
        kind: `max F1`: maximum harmonic mean of precision and sensitivity; `sensitivity`: at least
            `value`, with as few false positives as possible; `false positives`: at most `value` per
            image, with the highest possible sensitivity.
        value: Bound of the criterion; 0 for `max F1`.
    """

    kind: Kind
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> ThresholdRule:
        """Parse a rule written by a user.

        Raises:
            DataError: If the rule is unknown, or its bound is out of range.
        """
        # A minus sign before a number is kept, so that a negative bound is rejected and does not
        # silently lose its sign.
        plain = re.sub(r"[\s_]+|-(?![\d.])", "", text.lower())
        if plain in ("maxf1", "f1"):
            return cls("max F1")
        match = re.fullmatch(r"(sensitivity>=|falsepositives(?:perimage)?<=)(\d*\.?\d+)", plain)
        if match is None:
            raise DataError(f"rule {text!r} is unknown; the rules are {_FORMS}")
        value = float(match[2])
        if match[1].startswith("false"):
            return cls("false positives", value)
        if not 0 < value <= 1:
            raise DataError(f"rule {text!r}: a sensitivity must be above 0 and at most 1")
        return cls("sensitivity", value)

    def __str__(self) -> str:
        if self.kind == "max F1":
            return "max F1"
        if self.kind == "sensitivity":
            return f"sensitivity >= {self.value:g}"
        return f"false positives per image <= {self.value:g}"


@dataclass(frozen=True)
class OperatingPoint:
    """Threshold, with its results on the images that it was chosen on.

    Attributes:
        threshold: Minimum score of the detections that count.
        sensitivity: Fraction of the objects that are found, 0..1.
        precision: Found objects divided by found objects and false positives, 0..1.
        f1: Harmonic mean of precision and sensitivity, 0..1.
        false_positives: False positives per image.
        objects: Number of objects.
    """

    threshold: float
    sensitivity: float
    precision: float
    f1: float
    false_positives: float
    objects: int

    def to_json(self) -> dict[str, Any]:
        """Convert the operating point to plain numbers."""
        return asdict(self)


def choose_thresholds(
    evaluator: FrocEvaluator, rule: ThresholdRule
) -> dict[str, OperatingPoint | None]:
    """Choose the operating point of every class from the hits and false positives of a FROC.

    Args:
        evaluator: Evaluator with the images to choose on.
        rule: Criterion, applied to every class separately.

    Returns:
        Class name -> its point, and `all` -> the point of all classes with a common threshold; None
        for a class without objects in these images, or with F1 0 at every threshold.

    Raises:
        DataError: If no threshold satisfies the rule; the message names the class and the best
            achievable value.
    """
    images = len(evaluator.image_ids)
    points: dict[str, OperatingPoint | None] = {}
    for name, label in (("all", None), *((n, i) for i, n in enumerate(evaluator.classes))):
        objects, false = evaluator.get_decision_scores(label)
        if not len(objects):
            if label is None:
                raise DataError(
                    f"the {Count(images):image contains|images contain} no object of "
                    f"{format_list(evaluator.classes)}; "
                    "choose an operating point on images with objects"
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
    """Return the threshold of every label; classes without a point use that of all classes."""
    overall = points["all"]
    assert overall is not None
    selected_points = (points[name] or overall for name in classes)
    return tuple(point.threshold for point in selected_points)


def _build_table(objects: Floats, false: Floats, images: int) -> list[OperatingPoint]:
    """Compute the operating point at every score, the highest score first."""
    hit, false_scores = np.sort(objects[np.isfinite(objects)]), np.sort(false)
    levels = np.unique(np.concatenate((hit, false_scores)))[::-1]
    num_hits = len(hit) - np.searchsorted(hit, levels, side="left")
    num_false = len(false_scores) - np.searchsorted(false_scores, levels, side="left")
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
    """Choose the best point by a rule; among equally good points the highest threshold."""
    useful_points = [point for point in table if point.sensitivity > 0]
    if not useful_points:
        raise DataError(
            f"{name}: no object is found at any score, so there is no threshold to choose"
        )
    if rule.kind == "max F1":
        return max(useful_points, key=lambda point: point.f1)
    if rule.kind == "sensitivity":
        feasible = [point for point in useful_points if point.sensitivity >= rule.value]
        if not feasible:
            most = useful_points[-1]
            raise DataError(
                f"{name}: no threshold reaches {rule}; the highest sensitivity is "
                f"{most.sensitivity:.3f}, with {most.false_positives:.3g} false positives per image"
            )
        return feasible[0]
    feasible = [point for point in useful_points if point.false_positives <= rule.value]
    if not feasible:
        least = useful_points[0]
        raise DataError(
            f"{name}: no threshold that finds any object satisfies {rule}; the lowest rate is "
            f"{least.false_positives:.3g} per image, with sensitivity {least.sensitivity:.3f}"
        )
    return max(feasible, key=lambda point: point.sensitivity)
