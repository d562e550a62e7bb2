"""Colors of classes: the same everywhere, and distinct."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_tasks.visualization.colors import (
    Color,
    assign_class_colors,
    build_palette,
    choose_text_color,
    format_css_color,
    get_label_color,
)

CITY = ("road", "car", "person", "tree")


def test_a_color_depends_on_the_set_of_names_only() -> None:
    colors = assign_class_colors(CITY)
    assert colors == assign_class_colors(CITY[::-1])
    assert colors == assign_class_colors(("background", *CITY))
    assert colors == assign_class_colors(CITY, ("background", "car", "tree"), ("person",))
    assert len(set(colors.values())) == 4


def test_a_head_has_the_colors_of_the_run() -> None:
    colors = assign_class_colors(CITY)
    assert build_palette(("background", "tree", "car"), colors) == (
        (0, 0, 0),
        colors["tree"],
        colors["car"],
    )
    (other,) = build_palette(("bicycle",), colors)
    assert other not in colors.values()
    assert build_palette(CITY) == tuple(colors[name] for name in CITY)


def test_colors_are_distinct() -> None:
    colors = [get_label_color(number) for number in range(288)]
    assert len(set(colors)) == 288
    assert (0, 0, 0) not in colors
    assert get_label_color(288 + 3) == colors[3]
    lab = to_lab(np.asarray(colors[:96]))
    # A difference of 2 is just noticeable; neighbors in the alphabet are far from each other.
    assert np.linalg.norm(lab[1:] - lab[:-1], axis=1).min() > 15
    assert min(map(distance, itertools.combinations(colors[:20], 2))) > 18


# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
DEFICIENCIES = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("matrix", DEFICIENCIES.values(), ids=DEFICIENCIES)
def test_eight_colors_differ_for_color_blind_readers(matrix: list[list[float]]) -> None:
    colors = to_lab(np.asarray([get_label_color(n) for n in range(8)]), np.asarray(matrix))
    gaps = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(colors, 2)]
    assert min(gaps) > 19


def test_colors_are_visible_on_black_and_text_on_them() -> None:
    for number in range(96):
        color = get_label_color(number)
        assert contrast(color, (0, 0, 0)) > 3
        assert contrast(color, choose_text_color(color)) > 4.5
    assert choose_text_color((0, 0, 0)) == (255, 255, 255)


def test_css_colors() -> None:
    assert format_css_color((1, 171, 255)) == "#01abff"
    assert format_css_color(None) == ""


def to_linear(colors: NDArray[np.int64]) -> NDArray[np.float64]:
    values = colors / 255
    return np.asarray(
        np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    )


def to_lab(
    colors: NDArray[np.int64], deficiency: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """CIELAB (D65) of sRGB colors, as a color-blind person sees them."""
    linear = to_linear(colors) @ (np.eye(3) if deficiency is None else deficiency).T
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = linear.clip(0, 1) @ np.transpose(to_xyz) / [0.95047, 1, 1.08883]
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root.T
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=1)


def distance(pair: tuple[Color, Color]) -> float:
    first, second = to_lab(np.asarray(pair))
    return float(np.linalg.norm(first - second))


def contrast(first: Color, second: Color) -> float:
    """Contrast ratio of WCAG 2, 1..21."""
    light = to_linear(np.asarray([first, second])) @ [0.2126, 0.7152, 0.0722] + 0.05
    return float(light.max() / light.min())
