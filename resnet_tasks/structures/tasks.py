"""Tasks that a head can solve, and the annotations that each needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What a head does.

    Attributes:
        name: Key of the task's evaluator in `registry.EVALUATORS` too.
        target_fields: Fields of `Target` that the head's loss needs.
    """

    name: str
    target_fields: tuple[str, ...]


DETECTION = Task("detection", ("boxes", "labels"))
SEMANTIC_SEGMENTATION = Task("semantic_segmentation", ("semantic",))
CLASSIFICATION = Task("classification", ("image_labels",))
