"""Picture files, opened but not decoded."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image


def open_picture(path: Path) -> Image.Image:
    """An opened picture, not yet decoded; large ones up to `MAX_PIXELS` without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)
