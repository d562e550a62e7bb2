"""Warnings about masks that are empty or cover their whole image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SHOWN = 6


class MaskCoverage:
    """Count of the masks of a split that have one level only.

    An image without objects is legitimate, and so is one that shows nothing else; both are also
    what a mask looks like that was read in the wrong way. They are therefore always listed.
    """

    def __init__(self) -> None:
        self._total = 0
        self._empty: list[str] = []
        self._full: list[str] = []

    def add(self, path: Path, mask: NDArray[np.bool_]) -> None:
        """Count the `(height, width)` mask of a file."""
        self._total += 1
        if not mask.any():
            self._empty.append(path.as_posix())
        elif mask.all():
            self._full.append(path.as_posix())

    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for each kind of mask that was counted."""
        kinds = (
            (self._empty, "empty (no pixel is foreground)"),
            (self._full, "full (every pixel is foreground)"),
        )
        return tuple(self._warn(names, kind) for names, kind in kinds if names)

    def _warn(self, names: list[str], kind: str) -> str:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return (
            f"{len(names)} of {self._total} masks are {kind}: {', '.join(names[:_SHOWN])}{more}; "
            "check that this is what the images show"
        )
