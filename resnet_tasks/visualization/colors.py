"""Colors of classes, the same in all drawings, charts and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resnet_tasks.structures.evaluation import BACKGROUND

Color = tuple[int, int, int]
"""RGB, 0..255."""

BACKGROUND_COLOR: Color = (0, 0, 0)
"""Color of a background class, which is not drawn."""

# The first eight, a variant of the palette of Okabe and Ito, also differ for color-blind readers:
# their CIELAB distance is at least 20 in the simulations of Machado et al. 2009 of protan, deutan
# and tritan vision. Each further color is the one farthest from all colors before it in OKLab, also
# in these simulations. All are bright enough to be visible on black.
_PALETTE = bytes.fromhex(
    "f59600 56bef5 00915f faf078 2d64eb c82832 fab9dc aa32aa ff5aa5 5affb4 a587ff a5b478"
    "875a87 a5e12d c3692d ff00c3 e187d2 6987d2 0069a5 e15ae1 4bc32d ff3c5a c37887 96fff0"
    "b42d69 ffa596 3ce1f0 5a3cff 69692d 78ff00 87d2b4 d20f96 e1d296 962dd2 2da596 b469b4"
    "b4d269 69a569 a59600 87a5ff c35aff 00d296 0087ff b4ff96 d2a55a a54b4b 7869e1 78873c"
    "874bc3 d24b78 c387b4 a5a5e1 00ffff ffd25a f07887 69f05a 00b4d2 b4c3ff ff690f 8769c3"
    "ff87c3 e1005a c35a96 1e784b d2a5ff 1e87b4 b43c00 96f0c3 d2c34b d200e1 69d278 d28769"
    "c387f0 695a96 874bff d2695a e12dd2 ffa5e1 d2e187 5a5ab4 a54b78 9687c3 d20f78 3cb487"
    "c3873c 9687e1 4b78f0 ffe100 3c7800 87b44b 9669a5 f03cb4 f0b487 69d2d2 b400b4 e1f05a"
)
_SHADES = (1.0, 0.75, 0.55)
"""Brightness of the first, second and third use of the palette; later colors repeat."""


def get_label_color(number: int) -> Color:
    """Return color `number` of the palette; the first 288 colors are distinct."""
    cycle, index = divmod(number, len(_PALETTE) // 3)
    shade = _SHADES[cycle % len(_SHADES)]
    red, green, blue = (round(shade * value) for value in _PALETTE[3 * index : 3 * index + 3])
    return (red, green, blue)


def assign_class_colors(*names: Sequence[str]) -> dict[str, Color]:
    """Return the color of every class name, in alphabetical order of the names.

    The color depends only on the set of all names. It is independent of a class's label in a head,
    of the order of classes, and of a background class, which has no color.

    Args:
        names: Class names of the dataset and of all heads. Heads that know only some classes must
            be given together with the dataset, so that a class keeps its color.
    """
    unique = sorted({name for group in names for name in group} - {BACKGROUND})
    return {name: get_label_color(number) for number, name in enumerate(unique)}


def build_palette(
    classes: Sequence[str], colors: Mapping[str, Color] | None = None
) -> tuple[Color, ...]:
    """Return the color of every label.

    Args:
        classes: Class names in label order.
        colors: Class name -> color; None: those of `assign_class_colors` for `classes`. Classes
            missing from it get colors that it does not contain.
    """
    known = assign_class_colors(classes) if colors is None else dict(colors)
    for name in sorted(set(classes) - known.keys() - {BACKGROUND}):
        known[name] = get_label_color(len(known))
    return tuple(known.get(name, BACKGROUND_COLOR) for name in classes)


def choose_text_color(background: Color) -> Color:
    """Return black or white, whichever has the higher contrast to a background."""
    red, green, blue = (_linearize(value / 255) for value in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # WCAG 2 defines contrast as (lighter + 0.05) / (darker + 0.05); both are equal at 0.179.
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _linearize(value: float) -> float:
    """Return the linear intensity of an sRGB value, both 0..1."""
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def format_css_color(color: Color | None) -> str:
    """Format an RGB color as `#rrggbb`; no color is an empty string."""
    return "" if color is None else "#{:02x}{:02x}{:02x}".format(*color)
