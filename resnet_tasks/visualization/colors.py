"""Colors of classes, the same in all drawings, charts and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resnet_tasks.structures.evaluation import BACKGROUND

Color = tuple[int, int, int]
"""RGB, 0..255."""

BACKGROUND_COLOR: Color = (0, 0, 0)
"""Color of a background class, which drawings leave out."""

# The first eight differ for readers with normal, protan, deutan and tritan vision: their CIELAB
# distance is at least 20 under each simulation of Machado et al. 2009 (a variant of the palette of Okabe and Ito,
# adjusted to be visible on black). The others were each chosen to be as far as possible from all
# colors before it, under the same simulations. All are bright enough to be visible on black.
_PALETTE = bytes.fromhex(
    "f59600 56bef5 00915f faf078 2d64eb c82832 fab9dc aa32aa b4f0b4 f00000 966996 b4a55a"
    "ff6987 00e13c c378ff 87ff00 e178d2 782dff 69b496 c30f78 00ffff ff00a5 5a783c 87962d"
    "c3d278 7869d2 f01e5a ffc34b a51ee1 a5ffe1 2dff96 ffa5b4 2d785a ff78c3 87d287 c300c3"
    "96690f 8787e1 8778b4 c34b78 87c30f c39669 5ad2b4 ff693c e196f0 f0d269 c3ff5a 00a5b4"
    "e10fff 0069b4 e1c3ff b496ff c37869 ff0fe1 d2b45a ff4bc3 3ce1e1 b42d96 ff5a00 7878ff"
    "3cc33c 69d296 f0a578 ffe196 87f0c3 d23c96 69a578 964b78 4b5ac3 e1f087 d26987 d2784b"
    "b4e11e d2a5e1 4b784b b469d2 b4ffb4 a59600 f01e2d 69c396 e178a5 9696d2 69963c 87e1c3"
    "69f04b d21e5a a52dff b45a87 78c369 2d872d 69d2f0 f0a5d2 d21e0f b45a4b 4bd25a c387b4"
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
        colors: Class name -> color; None: those of `assign_class_colors` for `classes`. A class
            that it lacks gets a color that none of its classes has.
    """
    known = assign_class_colors(classes) if colors is None else dict(colors)
    for name in sorted(set(classes) - known.keys() - {BACKGROUND}):
        known[name] = get_label_color(len(known))
    return tuple(known.get(name, BACKGROUND_COLOR) for name in classes)


def choose_text_color(background: Color) -> Color:
    """Return black or white, whichever has the higher contrast to a background."""
    red, green, blue = (_linearize(value / 255) for value in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # WCAG 2: contrast is (lighter + 0.05) / (darker + 0.05); both are equal at a luminance of 0.179.
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _linearize(value: float) -> float:
    """Return the linear intensity of an sRGB value, both 0..1."""
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def format_css_color(color: Color | None) -> str:
    """Format an RGB color as `#rrggbb`; no color is an empty string."""
    return "" if color is None else "#{:02x}{:02x}{:02x}".format(*color)
