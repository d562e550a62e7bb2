"""Selection of the images in a report: the best, worst and most surprising ones of every head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_IMAGES = 12


@dataclass(frozen=True)
class ImageChoice:
    """Image selected for the report.

    Attributes:
        index: Position of the image in the dataset.
        reasons: Reasons for the selection as text, for example `cells: worst (quality 0.12)`.
    """

    index: int
    reasons: tuple[str, ...]


def choose_images(
    details: Mapping[str, Mapping[str, Any]], ids: Sequence[int | str], limit: int = MAX_IMAGES
) -> tuple[list[ImageChoice], list[str]]:
    """Select the best, the worst and the most surprising images of every head.

    Args:
        details: Head name -> details of the evaluation; see `Evaluation.details`.
        ids: Image ids by position in the dataset.
        limit: Maximum number of images.

    Returns:
        Selected images without duplicates, and notes. If no head has scores per image, the selected
        images are evenly spaced and a note explains that.
    """
    positions = {image_id: i for i, image_id in enumerate(ids)}
    scores_by_head = {
        head: _read_image_scores(head_details.get("images"), positions)
        for head, head_details in details.items()
    }
    scores_by_head = {head: rows for head, rows in scores_by_head.items() if rows}
    if not scores_by_head:
        spaced_indices = np.linspace(0, len(ids) - 1, min(limit, len(ids))).astype(int)
        note = (
            "This evaluation has no quality per image; these images are spaced evenly over the "
            "dataset."
        )
        return [ImageChoice(int(i), ()) for i in dict.fromkeys(spaced_indices)], [note] if len(
            ids
        ) else []
    quota = max(1, limit // (3 * len(scores_by_head)))
    reasons: dict[int, list[str]] = {}
    for criterion in ("worst", "most surprising", "best"):
        for head, rows in scores_by_head.items():
            num_taken = 0
            for index, quality, surprise in _sort_rows(rows, criterion):
                if num_taken == quota:
                    break
                if index not in reasons and len(reasons) >= limit:
                    continue
                value = (
                    f"surprise {surprise:.2f}" if "surp" in criterion else f"quality {quality:.2f}"
                )
                reasons.setdefault(index, []).append(f"{head}: {criterion} ({value})")
                num_taken += 1
    return [ImageChoice(index, tuple(texts)) for index, texts in reasons.items()], []


def _read_image_scores(
    raw: Any, positions: Mapping[int | str, int]
) -> list[tuple[int, float, float]]:
    """Return (position, quality, surprise) of the dataset's images that have a quality."""
    return [
        (positions[row["image_id"]], float(row["quality"]), float(row.get("surprise") or 0))
        for row in raw or ()
        if row.get("image_id") in positions and row.get("quality") is not None
    ]


def _sort_rows(
    rows: Iterable[tuple[int, float, float]], criterion: str
) -> list[tuple[int, float, float]]:
    if criterion == "most surprising":
        return sorted((row for row in rows if row[2] > 0), key=lambda row: (-row[2], row[0]))
    rows = list(rows)
    if criterion == "best" and len({row[1] for row in rows}) == 1:
        return []  # All have the same quality, and some are already selected as the worst.
    sign = -1 if criterion == "best" else 1
    return sorted(rows, key=lambda row: (sign * row[1], row[0]))
