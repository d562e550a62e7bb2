"""Legends and lines of text below and above drawings, black on white."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.visualization.colors import Color

Pixels = NDArray[np.uint8]
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _BLACK, _GRAY = (255, 255, 255), (0, 0, 0), (128, 128, 128)


def draw_legend(entries: Sequence[tuple[str, Color]], width: int, text_scale: float) -> Pixels:
    """Draw the colors and names of classes, in as many rows as their names need.

    Args:
        entries: (class name, color) pairs; too long names are shortened in the middle.
        width: Width of the legend, pixels.
        text_scale: Text size relative to the 22 pixels of the font.

    Returns:
        `(height, width, 3)` uint8 RGB; no rows without entries.
    """
    line, chip, gap = _measure_lines(text_scale)
    rows, x = 0, width  # the first entry starts the first row
    places = []
    for name, color in entries:
        text = shorten_text(name, width - chip - 3 * gap, text_scale)
        entry_width = chip + gap + measure_text(text, text_scale)
        if x + entry_width > width - gap:
            rows, x = rows + 1, gap
        places.append((x, (rows - 1) * line, text, color))
        x += entry_width + 2 * gap
    legend = np.full((rows * line, width, 3), 255, np.uint8)
    for left, top, text, color in places:
        y = top + (line - chip) // 2
        cv2.rectangle(legend, (left, y), (left + chip, y + chip), color, -1)
        cv2.rectangle(legend, (left, y), (left + chip, y + chip), _GRAY, 1)
        write_line(legend, text, (left + chip + gap, top), text_scale)
    return legend


def write_line(
    canvas: Pixels, text: str, corner: tuple[int, int], text_scale: float, color: Color = _BLACK
) -> None:
    """Write a line of text on a canvas, in place.

    Args:
        canvas: `(height, width, 3)` uint8 RGB.
        text: Text without line breaks.
        corner: (x, y) of the top left corner of the line, pixels.
        text_scale: Text size relative to the 22 pixels of the font.
        color: Color of the text.
    """
    line, chip, _ = _measure_lines(text_scale)
    baseline = (corner[0], corner[1] + (line + chip) // 2 - 1)
    cv2.putText(canvas, text, baseline, _FONT, text_scale, color, 1, cv2.LINE_AA)


def draw_lines_of_text(texts: Sequence[str], width: int, text_scale: float) -> Pixels:
    """Draw lines of text on white; lines that are too long are shortened in the middle."""
    line, _, gap = _measure_lines(text_scale)
    drawing = np.full((len(texts) * line, width, 3), 255, np.uint8)
    for number, text in enumerate(texts):
        shortened = shorten_text(text, width - 2 * gap, text_scale)
        write_line(drawing, shortened, (gap, number * line), text_scale)
    return drawing


def shorten_text(text: str, width: int, text_scale: float) -> str:
    """Return a text that is at most `width` pixels wide, shortened in the middle if necessary."""
    # Line breaks and invisible characters have no place in a line.
    plain = "".join(character if character.isprintable() else "?" for character in text)
    line, num_chars = plain, len(plain)
    while num_chars > 1 and measure_text(line, text_scale) > width:
        num_chars -= 1
        line = f"{plain[: (num_chars + 1) // 2]}...{plain[len(plain) - num_chars // 2 :]}"
    return line


def measure_text(text: str, text_scale: float) -> int:
    """Return the width of a line of text, pixels."""
    return int(cv2.getTextSize(text, _FONT, text_scale, 1)[0][0])


def compute_line_height(text_scale: float) -> int:
    """Return the height of a line of text, pixels."""
    return _measure_lines(text_scale)[0]


def _measure_lines(text_scale: float) -> tuple[int, int, int]:
    """Return the height of a line, the side of a color chip and the gap between them, pixels."""
    chip = max(6, round(22 * text_scale))
    return round(1.7 * chip) + 2, chip, max(3, round(0.5 * chip))


def stack_vertically(parts: Sequence[Pixels]) -> Pixels:
    """Stack images vertically; narrow ones are centered on white."""
    width = max(part.shape[1] for part in parts)
    padded = []
    for part in parts:
        left = (width - part.shape[1]) // 2
        margins = ((0, 0), (left, width - part.shape[1] - left), (0, 0))
        padded.append(np.pad(part, margins, constant_values=255))
    return np.concatenate(padded)
