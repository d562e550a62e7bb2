"""Colors of classes, the same in all drawings."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

from resnet_tasks.structures.evaluation import BACKGROUND

Color = tuple[int, int, int]
"""RGB, 0..255."""

_GOLDEN_ANGLE = 0.381966  # fraction of a full turn: neighboring labels get distant hues


def get_label_color(label: int) -> Color:
    """Return the RGB color number `label`, 0..255; the same in every drawing."""
    value = 1.0 if label % 2 == 0 else 0.8
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * _GOLDEN_ANGLE) % 1.0, 0.75, value)
    return (round(red * 255), round(green * 255), round(blue * 255))


def assign_class_colors(*names: Sequence[str]) -> dict[str, Color]:
    """Return the color of every class name, so that all heads draw a class in the same color.

    Args:
        names: Class names of the dataset first, then of the heads; colors are assigned in the order
            in which names appear. A background class, the first of its head, has no color.
    """
    unique = dict.fromkeys(
        name for head in names for label, name in enumerate(head) if label or name != BACKGROUND
    )
    return {name: get_label_color(number) for number, name in enumerate(unique)}


def build_palette(
    classes: Sequence[str], colors: Mapping[str, Color] | None = None
) -> tuple[Color, ...]:
    """Return the color of every label; black for a background class."""
    known = assign_class_colors(tuple(colors or ()), classes) | dict(colors or {})
    return tuple(known.get(name, (0, 0, 0)) for name in classes)
