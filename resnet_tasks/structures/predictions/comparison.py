"""Differences between two predictions for the same images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """Allowed differences between an exported model and the original model.

    Attributes:
        box: Maximum difference of the corners of one detection, pixels of the original image.
        score: Maximum difference of the scores or probabilities of one detection, pixel or image.
        unmatched: Maximum share of the detections of both models without a counterpart within
            tolerance. Detections are weighted by score, so that many low-scoring ones count little.
        pixels: Maximum share of pixels with a different class.
    """

    box: float
    score: float
    unmatched: float
    pixels: float


@dataclass
class OutputDifference:
    """Maximum differences of one head over several images; values that do not apply stay 0.

    Attributes:
        images: Number of compared images.
        detections: Number of detections of the model and of the export together.
        unmatched: Number of these detections without a counterpart.
        scores: Sum of the scores of all detections.
        unmatched_scores: Sum of the scores of the detections without a counterpart.
        box: Maximum corner difference of matched detections, pixels of the original image.
        score: Maximum difference of the scores of matched detections or of the probabilities of
            images. For semantic maps: maximum over the images of the mean over the pixels of the
            largest difference among the class probabilities.
        compared_pixels: Number of pixels whose class was compared.
        differing_pixels: Number of these pixels with a different class.
    """

    images: int = 0
    detections: int = 0
    unmatched: int = 0
    scores: float = 0.0
    unmatched_scores: float = 0.0
    box: float = 0.0
    score: float = 0.0
    compared_pixels: int = 0
    differing_pixels: int = 0

    @property
    def unmatched_fraction(self) -> float:
        """Share of the scores, 0 to 1, that belongs to detections without a counterpart."""
        return self.unmatched_scores / self.scores if self.scores else 0.0

    @property
    def pixels(self) -> float:
        """Share of the compared pixels with a different class, 0 to 1."""
        return self.differing_pixels / self.compared_pixels if self.compared_pixels else 0.0

    def add_score_gap(self, gap: Any) -> None:
        """Take a difference of scores or probabilities into account; NaN counts as infinite."""
        self.score = max(self.score, float(gap) if np.isfinite(gap) else float("inf"))

    def is_within(self, tolerance: Tolerance) -> bool:
        """Return whether all differences are within the tolerance."""
        return (
            self.unmatched_fraction <= tolerance.unmatched
            and self.box <= tolerance.box
            and self.score <= tolerance.score
            and self.pixels <= tolerance.pixels
        )

    def to_json(self) -> dict[str, Any]:
        """Return the differences as plain values for JSON."""
        values = asdict(self)
        del values["compared_pixels"], values["differing_pixels"]
        return {**values, "pixels": self.pixels, "lost": self.unmatched_fraction}
