"""Drawings of explanations: a heat map over its image, with caption, legend and color scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.visualization.colors import Color
from resnet_tasks.visualization.legend import (
    compute_line_height,
    draw_legend,
    draw_lines_of_text,
    measure_text,
    stack_vertically,
    write_line,
)

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]

MIN_WIDTH = 512
"""Minimum width of a drawing, pixels; narrower images are enlarged or centered on white."""
_MAX_ENLARGED_HEIGHT = 1536
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SCALE_TITLE = "evidence relative to the strongest location of the image"


@dataclass(frozen=True)
class ExplanationCaption:
    """Text above an explanation.

    Attributes:
        class_name: Explained class.
        color: Color of the class.
        lines: Further lines, such as the score and the method.
    """

    class_name: str
    color: Color
    lines: Sequence[str] = ()


def draw_explanation(
    image: Pixels, heat: NDArray[np.float32], caption: ExplanationCaption, box: Box | None = None
) -> Pixels:
    """Draw a heat map over an image, with caption, legend of the class and color scale.

    Args:
        image: `(height, width, 3)` uint8 RGB; enlarged if it is narrower than `MIN_WIDTH`.
        heat: `(height, width)`, 0..1.
        caption: Text above the image.
        box: xyxy of the explained object, pixels of `image`; None: no box is drawn.

    Returns:
        RGB drawing that is at least `MIN_WIDTH` pixels wide.
    """
    height, width = image.shape[:2]
    factor = max(1, min(-(-MIN_WIDTH // width), _MAX_ENLARGED_HEIGHT // height))
    if factor > 1:
        size = (width * factor, height * factor)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        heat = np.asarray(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR), np.float32)
        if box is not None:
            box = (factor * box[0], factor * box[1], factor * box[2], factor * box[3])
    total_width = max(MIN_WIDTH, image.shape[1])
    text_scale = float(np.clip(total_width / 1024, 0.5, 1.5))
    parts = [
        draw_legend([(caption.class_name, caption.color)], total_width, text_scale),
        draw_lines_of_text(caption.lines, total_width, text_scale),
        draw_heat(image, heat, box, caption.color),
        _draw_color_scale(total_width, text_scale),
    ]
    return stack_vertically(parts)


def draw_heat(
    image: Pixels, heat: NDArray[np.float32], box: Box | None = None, color: Color = (255, 255, 255)
) -> Pixels:
    """Blend a heat map over an RGB image, and draw the box that it explains.

    Args:
        image: `(height, width, 3)` uint8 RGB.
        heat: `(height, width)`, 0..1; pixels with 0 stay unchanged.
        box: xyxy, pixels of `image`; None: no box is drawn.
        color: Color of the box.
    """
    heat_colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    opacity = 0.6 * heat[:, :, None]
    canvas: Pixels = ((1 - opacity) * image + opacity * heat_colors).astype(np.uint8)
    if box is not None:
        x1, y1, x2, y2 = (round(value) for value in box)
        canvas = np.ascontiguousarray(canvas)
        thickness = max(2, round(min(image.shape[:2]) / 240))
        # The black border separates the box from parts of the heat map with a similar color.
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 0, 0), thickness + 2)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness)
    return canvas


def _draw_color_scale(width: int, text_scale: float) -> Pixels:
    """Draw the colors of a heat map over medium gray, with the values below and a title."""
    line = compute_line_height(text_scale)
    margin = line
    values = np.linspace(0, 1, width - 2 * margin, dtype=np.float32)[None].repeat(line // 2, axis=0)
    gray = np.full((*values.shape, 3), 128, np.uint8)
    scale = np.full((line // 2 + line, width, 3), 255, np.uint8)
    scale[line // 4 : line // 4 + line // 2, margin : width - margin] = draw_heat(gray, values)
    for tick in _TICKS:
        x = margin + round(tick * (width - 2 * margin - 1))
        bottom = line // 4 + line // 2
        cv2.line(scale, (x, bottom), (x, bottom + line // 6), (0, 0, 0))
        text = f"{tick:g}"
        left = x - measure_text(text, text_scale) // 2
        write_line(scale, text, (left, line // 2 + line // 8), text_scale)
    return stack_vertically([scale, draw_lines_of_text([_SCALE_TITLE], width, text_scale)])
