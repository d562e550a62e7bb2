"""Warnings about masks that are empty, cover their whole image, or are absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SHOWN = 6


class MaskCoverage:
    """Counter of the masks of a split that have only one level.

    Empty and full masks are legitimate, but a mask that was misinterpreted looks the same. They are
    therefore always listed.
    """

    def __init__(self) -> None:
        self._total = 0
        self._empty: list[str] = []
        self._full: list[str] = []
        self._num_images = 0
        self._without_mask: list[str] = []

    def add(self, path: Path, mask: NDArray[np.bool_]) -> None:
        """Count the `(height, width)` mask of a file."""
        self._total += 1
        if not mask.any():
            self._empty.append(path.as_posix())
        elif mask.all():
            self._full.append(path.as_posix())

    def add_image(self, name: str, num_masks: int) -> None:
        """Count an image with its number of mask files."""
        self._num_images += 1
        if num_masks == 0:
            self._without_mask.append(name)

    def warnings(self) -> tuple[str, ...]:
        """Return one warning for each kind of problem that was counted."""
        kinds = (
            (self._without_mask, f"{self._num_images} images have no mask file"),
            (self._empty, f"{self._total} masks are empty (no pixel is foreground)"),
            (self._full, f"{self._total} masks are full (every pixel is foreground)"),
        )
        return tuple(_warn(names, kind) for names, kind in kinds if names)


def _warn(names: list[str], kind: str) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"{len(names)} of {kind}: {', '.join(names[:_SHOWN])}{more}; check that this is what the "
        "images show"
    )
