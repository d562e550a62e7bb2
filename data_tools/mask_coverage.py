"""Warnings about masks that are empty or cover their whole image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.coco_writer import CocoWriter

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

    def warn(self, writer: CocoWriter) -> None:
        """Add a warning to the summary of the split for each kind that was found."""
        for names, verdict in (
            (self._empty, "empty (no pixel is foreground)"),
            (self._full, "full (every pixel is foreground)"),
        ):
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                listed = ", ".join(names[:_SHOWN]) + more
                writer.warn(
                    f"{len(names)} of {self._total} masks are {verdict}: {listed}; check that "
                    "this is what the images show"
                )
