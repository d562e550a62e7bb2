"""Detection of the foreground pixels of a mask file from the values in the file.

A mask has two levels. Its background is black, transparent or palette index 0. Its foreground is
the other level, such as 1, 255, 65535, red or opaque. A file with several interpretations is
rejected, and the error lists them, since a wrong guess would write an empty or a full mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_tools.reading.mask_images import MaskImage, count_values, load_mask_image
from data_tools.reading.mask_levels import (
    Level,
    Unclear,
    name_level,
    split_alpha,
    split_color,
    split_indices,
)
from resnet_tasks.errors import DataError

Mask = NDArray[np.bool_]
Result = TypeVar("Result")
Foreground = Literal["auto", "color", "alpha", "index"] | int | tuple[int, int, int]
"""Part of the file that carries the mask, or the value or RGB color of the foreground."""

_SIMILAR = 8
"""Maximum difference, on a scale of 0 to 255, between colors that count as one."""


class Reading(NamedTuple):
    """Interpretation of one file.

    Attributes:
        mask: `(height, width)` bool foreground; None if the file has only one level.
        carrier: Part of the file that carries the mask: color, alpha or index.
        level: Foreground color if the carrier is color, else None.
    """

    mask: Mask | None
    carrier: str
    level: Level | None = None


@dataclass
class MaskReader:
    """Reader of the masks of one dataset, which all have the same encoding.

    `survey` reads every file once. Afterwards `read` can also interpret files with one level (only
    foreground or only background) according to the encoding of the other files.

    Args:
        foreground: Part of the files that carries the mask, or the foreground's value or color;
            `auto` decides from the values.
        threshold: Lowest gray value of the foreground, 1 to 255; None decides from the values.
        one_level: Whether all files must have the same foreground value.
        allow_lossy: Whether to accept JPEG and other lossy formats if there are clearly two levels.
        group: Name of the option that contains the mask options, for error messages.
        files: All files of the dataset. They are surveyed on demand, when `read` meets the first
            file with one level and several interpretations.
    """

    foreground: Foreground = "auto"
    threshold: int | None = None
    one_level: bool = True
    allow_lossy: bool = False
    group: str = ""
    files: Sequence[Path] = ()

    def __post_init__(self) -> None:
        """Initialize the carriers and levels that the survey collects."""
        self._unread = self.files
        self._carriers: dict[str, Path] = {}
        self._levels: dict[Level, Path] = {}

    def survey(self, paths: Iterable[Path]) -> None:
        """Read all files of the dataset and collect the carriers and levels of their foreground.

        Raises:
            DataError: If a file is unreadable or ambiguous, or two files contradict each other.
        """
        self._unread = ()
        if self.foreground != "auto" or self.threshold is not None:
            return
        for path in paths:
            image = load_mask_image(path, allow_lossy=self.allow_lossy)
            self._require_one_scale(image)
            reading = self._interpret(image)
            if reading.mask is None:
                continue
            self._carriers.setdefault(reading.carrier, path)
            if reading.level is not None and self.one_level:
                self._levels.setdefault(reading.level, path)
            if len(self._levels) > 1:
                (first, first_path), (second, second_path) = list(self._levels.items())[:2]
                raise DataError(
                    f"the mask {first_path} has the foreground {_name(first)}, the mask "
                    f"{second_path} {_name(second)}: two classes, or two encodings of one? Store "
                    "all masks in the same encoding, or set "
                    f"{self._option('foreground', 'color')}, so that everything that is not black "
                    "is foreground"
                )

    def read(self, path: Path) -> Mask:
        """Return the `(height, width)` bool foreground of a mask file.

        Raises:
            DataError: If the file is unreadable or has several interpretations.
        """
        image = load_mask_image(path, allow_lossy=self.allow_lossy)
        if not isinstance(self.foreground, int | tuple):
            self._require_one_scale(image)
        if self.threshold is not None and self.foreground == "auto":
            return self._cut(image, self.threshold)
        if self.foreground != "auto":
            return self._choose(image, self.foreground)
        reading = self._interpret(image)
        return self._fill(image) if reading.mask is None else reading.mask

    def _option(self, name: str, value: str) -> str:
        """Return an option in the syntax of the command line."""
        return f"{self.group}={{{name}: {value}}}" if self.group else f"{name}={value}"

    def _require_one_scale(self, image: MaskImage) -> None:
        """Reject a file that declares 0 as white: not all writers invert the values accordingly."""
        if image.white_is_zero:
            value = image.color.max() or 255
            raise DataError(
                f"the mask {image.path} has no unique interpretation: it is a TIFF that declares 0 "
                f"as white (MINISWHITE), so that by value the pixels of {value} are foreground, "
                "but by appearance those of 0; store it with 0 as black, or choose with "
                f"{self._option('foreground', str(value))} or {self._option('foreground', '0')}"
            )

    # --- Foreground from an option

    def _cut(self, image: MaskImage, threshold: int) -> Mask:
        gray = image.gray_of_8_bits()
        mask: Mask = gray >= threshold - 1e-6
        num_colors = len(count_values(image.codes)[0])
        if not mask.any() and num_colors == 2 and threshold > 1 and not image.is_lossy:
            raise DataError(
                f"the mask {image.path} holds two colors, both below the gray value threshold "
                f"{threshold} (at most {gray.max():.0f}), so that nothing would be foreground; "
                "omit the threshold: two colors need none"
            )
        return mask

    def _choose(self, image: MaskImage, foreground: Foreground) -> Mask:
        if isinstance(foreground, tuple):
            rgb = np.broadcast_to(image.color.reshape(*image.size, -1), (*image.size, 3))
            return np.asarray((rgb == np.asarray(foreground)).all(axis=2))
        if isinstance(foreground, int):
            values = image.codes if image.indices is None else image.indices
            return np.asarray(values == foreground)
        if foreground == "index":
            values = image.codes if image.indices is None else image.indices
            return np.asarray(values != 0)
        if foreground == "alpha":
            if image.alpha is None:
                return np.ones(image.size, np.bool_)
            return np.asarray(image.alpha >= image.alpha_max / 2)
        if image.is_lossy:
            split = self._explain(image, lambda: split_color(image))
            return np.asarray(image.codes != 0) if split is None else split[0]
        return np.asarray(image.codes != 0)

    # --- Foreground from the values

    def _interpret(self, image: MaskImage) -> Reading:
        return self._explain(image, lambda: self._interpret_parts(image))

    def _explain(self, image: MaskImage, decide: Callable[[], Result]) -> Result:
        try:
            return decide()
        except Unclear as unclear:
            threshold = f", or {self._option('threshold', 'N')} (N from 1 to 255)"
            raise DataError(
                f"the mask {image.path} has no unique interpretation: {unclear}; store it as 0 and "
                f"255, or choose with {self._option('foreground', 'X')} (X: color, alpha, index, "
                f"the value or the [R, G, B] of the foreground){threshold if self.group else ''}"
            ) from None

    def _interpret_parts(self, image: MaskImage) -> Reading:
        if image.alpha is not None and (image.alpha != image.alpha.flat[0]).any():
            return _interpret_alpha(image)
        if image.alpha is not None and not image.alpha.any() and np.ptp(image.codes) > 0:
            raise Unclear(
                "every pixel is transparent (nothing is foreground), but the colors differ "
                "(the brighter color is foreground)"
            )
        if image.indices is not None:
            return _interpret_palette(image)
        split = split_color(image)
        return Reading(None, "color") if split is None else Reading(split[0], "color", split[1])

    def _fill(self, image: MaskImage) -> Mask:
        """Return a full or an empty mask for a file with one level, based on the other files."""
        is_full = self._explain(image, lambda: self._is_full(image))
        return np.full(image.size, is_full, np.bool_)

    def _is_full(self, image: MaskImage) -> bool:
        by_part = {"color": bool(image.codes.flat[0] != 0)}
        if image.alpha is not None or "alpha" in self._carriers:
            by_part["alpha"] = image.alpha is None or bool(image.alpha.flat[0] != 0)
        if image.indices is not None:
            by_part["index"] = bool(image.indices.flat[0] != 0)
        if len(set(by_part.values())) > 1 and self._unread:
            self.survey(self._unread)
        only = next(iter(self._carriers)) if len(self._carriers) == 1 else ""
        if only not in by_part and len(set(by_part.values())) > 1:
            readings = ", ".join(
                f"by {part} everything is {'foreground' if full else 'background'}"
                for part, full in by_part.items()
            )
            raise Unclear(f"it has one level only: {readings}")
        if image.is_lossy:
            split_color(image)  # raises for a level that is neither black nor white
        is_full = by_part.get(only, by_part["color"])
        if is_full and only == "color" and self._levels and not image.is_lossy:
            self._require_level(image)
        return is_full

    def _require_level(self, image: MaskImage) -> None:
        """Reject a file of one color that is neither black nor the foreground of the others."""
        (expected, path) = next(iter(self._levels.items()))
        color = tuple(np.atleast_1d(image.color[0, 0]).tolist())
        level = (name_level(color[0], image.color_max),) if len(color) == 1 else color
        if level != expected:
            raise Unclear(
                f"its only color is {_name(level)}, while the foreground of {path} is "
                f"{_name(expected)}"
            )


def _interpret_palette(image: MaskImage) -> Reading:
    assert image.indices is not None
    by_index = split_indices(image.indices)
    if np.ptp(image.codes) == 0:
        return Reading(by_index, "index") if by_index is not None else Reading(None, "index")
    try:
        split = split_color(image)
    except Unclear:
        if by_index is None:
            raise
        return Reading(by_index, "index")
    assert split is not None
    if by_index is not None and (by_index != split[0]).any():
        raise Unclear(
            "palette index 0 is not black but the other index is, so that by index the black "
            "pixels are foreground and by color the others"
        )
    return Reading(split[0], "color", split[1])


def _interpret_alpha(image: MaskImage) -> Reading:
    """Interpret a file whose opacity varies, which must not contradict its colors."""
    assert image.alpha is not None
    visible = image.alpha >= image.alpha_max / 2
    codes = image.codes
    if not visible.any() or _are_similar(image, visible):
        by_alpha = split_alpha(image)
        visible_codes = set(np.unique(codes[visible]).tolist())
        hidden_codes = set(np.unique(codes[image.alpha == 0]).tolist())
        contradicts = (0 in visible_codes and hidden_codes != {0} and bool(hidden_codes)) or (
            len(hidden_codes) > 1 and bool(visible_codes & hidden_codes)
        )
        if not contradicts:
            return Reading(by_alpha, "alpha")
        raise Unclear(
            "by opacity the opaque pixels are foreground, but the colors of the transparent pixels "
            "give another foreground"
        )
    try:
        by_alpha, split = split_alpha(image), split_color(image)
    except Unclear as unclear:
        raise Unclear(f"color and opacity both vary, and {unclear}") from None
    assert split is not None
    if (by_alpha != split[0]).any():
        raise Unclear(
            f"color and opacity both vary and disagree on {int((by_alpha != split[0]).sum())} "
            "pixels: by color the bright pixels are foreground, by opacity the opaque ones"
        )
    return Reading(split[0], "color", split[1])


def _are_similar(image: MaskImage, selected: Mask) -> bool:
    """Return whether the colors of the selected pixels differ by at most `_SIMILAR`."""
    colors = image.color.reshape(*image.size, -1)[selected]
    return bool((np.ptp(colors, axis=0) <= _SIMILAR * image.color_max / 255).all())


def _name(level: Level) -> str:
    return str(level[0]) if len(level) == 1 else f"RGB {level}"
