"""Images and label maps as data URIs, reduced to the display size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST_SIDE = 640


def shrink_label_map(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Reduce a label map to a longest side of `LONGEST_SIDE`, with nearest-neighbor sampling."""
    small = np.clip(labels, 0, 255).astype(np.uint8)
    step = LONGEST_SIDE / max(small.shape)
    if step >= 1:
        return small
    rows, columns = (
        ((np.arange(max(1, round(side * step))) + 0.5) / step).astype(int).clip(0, side - 1)
        for side in small.shape
    )
    return np.asarray(small[rows][:, columns], np.uint8)


def encode_png(values: NDArray[np.uint8], palette: Sequence[tuple[int, int, int, int]]) -> str:
    """Encode a map of palette indices as the data URI of a PNG.

    Args:
        values: `(height, width)` uint8 indices into the palette.
        palette: RGBA colors, each channel 0 to 255.
    """
    size = (int(values.shape[1]), int(values.shape[0]))
    image = Image.frombytes("P", size, values.tobytes())
    image.putpalette([channel for color in palette for channel in color[:3]])
    alpha = bytes(color[3] for color in palette)
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=alpha, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def encode_jpeg(image: NDArray[np.uint8]) -> str:
    """Encode an RGB image, reduced to `LONGEST_SIDE`, as the data URI of a JPEG."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    thumbnail.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
