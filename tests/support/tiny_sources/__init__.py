"""Tiny sources in the real format of every catalogd data set: `tiny_sources.NAME.write(folder)`.

`write` fills a folder with two or more images to learn from and one to judge on, as the
publisher lays them out, and returns what `data prepare NAME --source` is given; None where nothing
is read. `OPTIONS` of the module, where there are any, go to `prepare`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def image(file: Path, size: tuple[int, int] = (64, 96), seed: int = 0) -> None:
    """An image of noise, (height, width)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)


def indices(file: Path, values: np.ndarray) -> None:
    """A PNG of one channel."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(file)


def text(file: Path, content: str) -> None:
    """A text file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
