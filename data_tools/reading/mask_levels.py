"""Separation of the pixels of a mask into two levels, of which the darker one is black."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_tools.reading.mask_images import MaskImage, Values, count_values, is_nearly_gray
from resnet_tasks.number_formats import Count

Mask = NDArray[np.bool_]
Level = tuple[int, ...]
"""Gray value, or RGB, of the foreground."""

_DARK, _BRIGHT = 1 / 8, 7 / 8
"""Fractions of white: up to the first a value is noisy black, from the second it is white."""
_SHOWN = 6
_FLAT = 24
"""Maximum difference in a 3 x 3 block of one level in a JPEG; edges have several times that."""
_LEAST_SHARE = 0.01
"""Fraction of pixels above which gray in a JPEG is a level rather than a blurred edge."""
_HUE_SPREAD = 64
"""Maximum range of a channel (5th to 95th percentile) over bright JPEG pixels of one color."""
_MIXTURE = 6
"""Maximum distance of an edge pixel from a mixture of black and the foreground color."""


class Unclear(Exception):  # noqa: N818 - its text becomes part of a `DataError`
    """Error for a file with several interpretations, which its text lists."""


def split_color(image: MaskImage) -> tuple[Mask, Level] | None:
    """Separate foreground from black by color.

    Returns:
        The `(height, width)` bool mask and the foreground color; None if all pixels are equal.

    Raises:
        Unclear: If there are more than two levels (besides smooth edges), or none is black.
    """
    if image.color.ndim == 2:
        split = split_gray(image.color, image.color_max, is_lossy=image.is_lossy)
        return None if split is None else (split[0], (split[1],))
    if image.is_lossy:
        return _split_lossy_color(image)
    codes = image.codes
    values, first = np.unique(codes, return_index=True)
    colors = image.color.reshape(-1, 3)[first].astype(np.int64)
    flat_codes = np.unique(codes[_is_flat(codes)])
    levels = colors[np.isin(values, flat_codes) & (values != 0)]
    if values[0] != 0:
        raise Unclear(f"no color is black, so that none is the background: {_list_colors(colors)}")
    if len(values) == 2:
        return codes != 0, tuple(colors[1].tolist())
    if len(levels) > 1:
        raise Unclear(f"several colors besides black, one class each? {_list_colors(levels)}")
    level = levels[0] if len(levels) else colors[colors.max(axis=1).argmax()]
    # Edges with antialiasing are mixtures of black and the foreground color.
    shares = (colors @ level) / float(level @ level)
    distance = np.abs(colors - shares[:, None] * level).max(axis=1)
    if level.max() < image.color_max / 2 or distance.max() > _MIXTURE or shares.max() > 1.05:
        raise Unclear(f"several colors besides black, one class each? {_list_colors(colors[1:])}")
    bright = image.color.astype(np.int64) @ level * 2 >= float(level @ level)
    return np.asarray(bright), tuple(level.tolist())


def split_gray(values: Values, white: int, *, is_lossy: bool) -> tuple[Mask, int] | None:
    """Separate the foreground of gray values or opacities from 0; see `split_color`.

    Args:
        values: `(height, width)` gray values or opacities.
        white: Value of white.
        is_lossy: Whether the format may have changed values.

    Returns:
        The `(height, width)` bool mask and the foreground value; None if all pixels are equal.

    Raises:
        Unclear: If there are more than two levels (besides smooth edges), or none is black.
    """
    present, counts = count_values(values)
    if is_lossy:
        return _split_lossy_gray(values, present, white)
    if len(present) == 1:
        return None
    if len(present) == 2:
        if present[0] != 0:
            raise Unclear(
                f"it holds {_list_counts(present, counts)} and no 0, so that either may be the "
                "background"
            )
        return values != 0, name_level(int(present[1]), white)
    problem = _find_gray_problem(values, present, white)
    if problem:
        raise Unclear(
            f"it holds {Count(len(present)):value} ({_list_counts(present, counts)}), {problem}"
        )
    return values >= white / 2, 255


def name_level(value: int, white: int) -> int:
    """Return a gray value, with white as 255 at any bit depth."""
    return 255 if white in (255, 65535) and value >= _BRIGHT * white else value


def split_alpha(image: MaskImage) -> Mask:
    """Separate opaque from transparent pixels of a file whose opacity varies.

    Raises:
        Unclear: If there is one level of opacity, or more than two.
    """
    assert image.alpha is not None
    try:
        split = split_gray(image.alpha, image.alpha_max, is_lossy=image.is_lossy)
    except Unclear as unclear:
        raise Unclear(f"in opacity {unclear}") from None
    if split is None:
        raise Unclear("its opacity is neither full nor none")
    return split[0]


def split_indices(indices: Values) -> Mask | None:
    """Return the mask of the only index other than 0; None for any other set of indices."""
    present, _ = count_values(indices)
    return indices != 0 if len(present) == 2 and present[0] == 0 else None


def _find_gray_problem(values: Values, present: Values, white: int) -> str:
    """Return why more than two values are more than black, white and the edges between them.

    Edges are thin, so that an intermediate value that fills a block of 3 x 3 pixels is a separate
    level. The text is empty if the values are only black, white and edges.
    """
    share = present / white
    if present[0] > _DARK * white or share[-1] < _BRIGHT:
        return "which do not reach from black to white: classes, objects, or shades?"
    is_level = np.isin(present, np.unique(values[_is_flat(values)]))
    is_middle = (share > _DARK) & (share < _BRIGHT)
    if (is_level & is_middle).any():
        values_text = ", ".join(map(str, present[is_level & is_middle][:_SHOWN]))
        return (
            f"and pixels of {values_text} fill areas between black and white: a class, or a shade?"
        )
    if len(present) == 3 and not is_middle[1]:
        return "and the second and third could be two classes, or a class and void"
    is_dark_level = is_level & (share <= _DARK) & (present > 0)
    # Noise of an earlier JPEG yields several bright values; class ids with void 255 have only one.
    if is_dark_level.any() and (share >= _BRIGHT).sum() < 2:
        return "and small values fill areas next to a single bright value: class ids and void?"
    return ""


def _split_lossy_gray(values: Values, present: Values, white: int) -> tuple[Mask, int] | None:
    if present[-1] == 0:
        return None
    if present[-1] < _BRIGHT * white:
        raise Unclear(
            f"its largest value is {present[-1]} of {white}, and lossy compression makes levels "
            "other than black and white unreliable"
        )
    if present[0] >= _BRIGHT * white:
        return None
    middle = (values > _DARK * white) & (values < _BRIGHT * white)
    share = float((middle & _is_flat(values, _FLAT)).mean())
    if present[0] > _DARK * white or share > _LEAST_SHARE:
        raise Unclear(
            f"{max(share, float(middle.mean())):.0%} of the pixels lie between black and white: "
            "a class, or a shade?"
        )
    return values >= white / 2, 255


def _split_lossy_color(image: MaskImage) -> tuple[Mask, Level] | None:
    """Separate one color from black in a JPEG, by the brightest channel."""
    brightest = image.color.max(axis=2)
    if is_nearly_gray(image):
        split = split_gray(brightest, image.color_max, is_lossy=True)
        return None if split is None else (split[0], (split[1],))
    bright = image.color[brightest >= _BRIGHT * image.color_max]
    spread = np.percentile(bright, (5, 95), axis=0) if len(bright) else np.zeros((2, 3))
    if (spread[1] - spread[0] > _HUE_SPREAD).any():
        raise Unclear("the bright pixels have several colors, one class each?")
    split = split_gray(brightest, image.color_max, is_lossy=True)
    # Compression changes the color from file to file, but not its strongest channels.
    typical = np.median(bright, axis=0) if len(bright) else np.zeros(3)
    level = tuple(np.where(typical >= image.color_max / 2, 255, 0).tolist())
    return None if split is None else (split[0], level)


def _is_flat(values: Values, tolerance: int = 0) -> Mask:
    """Return a `(height, width)` mask of pixels whose 3 x 3 block is equal up to a tolerance."""
    low = ndimage.minimum_filter(values, 3, mode="nearest")
    high = ndimage.maximum_filter(values, 3, mode="nearest")
    return np.asarray(high - low <= tolerance)


def _list_counts(present: Values, counts: Values) -> str:
    pairs = zip(present[:_SHOWN].tolist(), counts[:_SHOWN].tolist(), strict=True)
    text = ", ".join(f"{value} in {Count(count):pixel}" for value, count in pairs)
    return text + (", ..." if len(present) > _SHOWN else "")


def _list_colors(colors: Values) -> str:
    text = ", ".join(str(tuple(color)) for color in colors[:_SHOWN].tolist())
    return text + (", ..." if len(colors) > _SHOWN else "")
