"""Images and label maps as data URIs, reduced to the display size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_tasks.visualization.thumbnails import encode_palette_png

AnyInteger = TypeVar("AnyInteger", bound=np.integer[Any])

LONGEST_SIDE = 640


def shrink_label_map(labels: NDArray[AnyInteger]) -> NDArray[AnyInteger]:
    """Reduce a label map to a longest side of `LONGEST_SIDE`, with nearest-neighbor sampling."""
    step = LONGEST_SIDE / max(labels.shape)
    if step >= 1:
        return labels
    rows, columns = (
        ((np.arange(max(1, round(side * step))) + 0.5) / step).astype(int).clip(0, side - 1)
        for side in labels.shape
    )
    small: NDArray[AnyInteger] = labels[rows][:, columns]
    return small


def encode_png(values: NDArray[np.uint8], palette: Sequence[tuple[int, int, int, int]]) -> str:
    """Encode a map of palette indices as the data URI of a PNG.

    Args:
        values: `(height, width)` uint8 indices into the palette.
        palette: RGBA colors, each channel 0 to 255.
    """
    colors = [(red, green, blue) for red, green, blue, _ in palette]
    alpha = bytes(color[3] for color in palette)
    content = encode_palette_png(values, colors, transparency=alpha, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def encode_jpeg(image: NDArray[np.uint8]) -> str:
    """Encode an RGB image, reduced to `LONGEST_SIDE`, as the data URI of a JPEG."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    thumbnail.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
