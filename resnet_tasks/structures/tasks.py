"""Tasks of the heads, and the annotations that each task needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Task of a head.

    Attributes:
        name: Name of the task, also the key of its evaluator in `registry.EVALUATORS`.
        target_fields: Fields of `Target` that the head's loss needs.
    """

    name: str
    target_fields: tuple[str, ...]


DETECTION = Task("detection", ("boxes", "labels"))
SEMANTIC_SEGMENTATION = Task("semantic_segmentation", ("semantic",))
CLASSIFICATION = Task("classification", ("image_labels",))
