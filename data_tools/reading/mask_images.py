"""Decoding of mask files into the parts that can carry a mask: color, opacity, palette index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.reading.image_io import READ_ERRORS
from data_tools.reading.source_folder import is_file
from resnet_tasks.data.images.channels import StoredImage, rgb_to_luminance
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.data.images.image_damage import describe_read_error
from resnet_tasks.data.images.image_files import detect_file_kind, open_image
from resnet_tasks.data.images.label_files import (
    find_only_page,
    read_tiff_values,
    require_lossless,
    require_single_image,
    round_ids,
)
from resnet_tasks.data.images.lossy_formats import find_lossy_format
from resnet_tasks.data.images.tiff_inflation import open_tiff
from resnet_tasks.errors import DataError

Values = NDArray[np.integer[Any]]
"""Pixels with the dtype of the file, to be widened before arithmetic that could overflow."""

_WHITE_IS_ZERO = 0
"""Photometric interpretation of TIFFs whose gray values increase from white to black."""
_GRAY_TOLERANCE = 12
"""Maximum difference between the channels of a gray image after JPEG compression, of 255."""


@dataclass(frozen=True)
class MaskImage:
    """Decoded mask file.

    Attributes:
        path: Path of the file.
        color: `(height, width)` gray values or `(height, width, 3)` RGB, as stored.
        color_max: Value of white: 255 if no value is larger, else 65535 or the largest value.
        alpha: `(height, width)` opacity; None if the file has no alpha or is fully opaque.
        alpha_max: Value of full opacity.
        indices: `(height, width)` palette indices; None without a palette.
        is_lossy: Whether the format changes values.
        white_is_zero: Whether the file declares the value 0 as white, so that values and appearance
            contradict each other. `color` then contains the stored values.
    """

    path: Path
    color: Values
    color_max: int
    alpha: Values | None = None
    alpha_max: int = 255
    indices: Values | None = None
    is_lossy: bool = False
    white_is_zero: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the mask."""
        return (int(self.color.shape[0]), int(self.color.shape[1]))

    @property
    def codes(self) -> Values:
        """`(height, width)` integer that identifies the color of each pixel; 0 is black."""
        if self.color.ndim == 2:
            return self.color
        color = self.color.astype(np.int64)
        shift = int(self.color_max).bit_length()
        red, green, blue = (color[..., channel] for channel in range(3))
        return red << 2 * shift | green << shift | blue

    def gray_of_8_bits(self) -> NDArray[np.float64]:
        """Return the `(height, width)` gray values on a scale of 0 to 255."""
        gray = self.color if self.color.ndim == 2 else rgb_to_luminance(self.color)[..., 0]
        return np.asarray(gray * (255.0 / self.color_max), np.float64)


def load_mask_image(path: Path, *, allow_lossy: bool = False) -> MaskImage:
    """Decode a mask file at full precision and apply its EXIF orientation.

    Args:
        path: Path of the file.
        allow_lossy: Whether to accept JPEG and other lossy formats.

    Raises:
        DataError: If the file is missing, unreadable, or lossy without `allow_lossy`, or if it
            contains several images or values that are not whole numbers of at least 0.
    """
    if not is_file(path):
        raise DataError(f"the mask {path} is missing; add it")
    try:
        is_lossy = find_lossy_format(path) is not None
    except READ_ERRORS as error:
        reason = describe_read_error(error, path)
        raise DataError(f"the mask {path} cannot be read ({reason}); replace it") from None
    if is_lossy and not allow_lossy:
        require_lossless(path, "the mask")
    try:
        image = decode_image(path)
        indices, key = (None, None) if is_lossy else _read_palette(path)
        values, white_is_zero = _read_white_is_zero(path)
    except (DataError, *READ_ERRORS) as error:
        reason = describe_read_error(error, path)
        raise DataError(f"the mask {path} cannot be read ({reason}); replace it") from None
    require_single_image(path, "the mask", image.pages)
    if values is not None:
        image = StoredImage(values[:, :, None], "gray")
    color, alpha = _split_alpha(image, path, key)
    return MaskImage(
        path,
        color,
        _largest_value(color),
        alpha,
        255 if alpha is None else _largest_value(alpha),
        indices,
        is_lossy,
        white_is_zero,
    )


def _read_white_is_zero(path: Path) -> tuple[Values | None, bool]:
    """Read the gray values of a TIFF that declares 0 as white.

    `tifffile.imwrite` by default declares 0 as white for every boolean array without inverting its
    values. In a 1-bit file by tifffile the declaration is therefore ignored.

    Returns:
        The stored values, None for other files, and whether the declaration is to be respected.
    """
    if detect_file_kind(path) != "tiff":
        return None, False
    with open_tiff(path) as tiff:
        _, page = find_only_page(tiff, path, "the mask")
        if int(page.photometric) != _WHITE_IS_ZERO or page.samplesperpixel != 1:
            return None, False
        is_default = page.bitspersample == 1 and str(page.software).startswith("tifffile")
    values = read_tiff_values(path)
    return (values * np.uint8(255) if values.dtype == np.bool_ else values), not is_default


def _read_palette(path: Path) -> tuple[Values | None, Any]:
    """Return the palette indices, and the color that a PNG without alpha declares transparent."""
    if detect_file_kind(path) == "numpy":
        return None, None
    try:
        with open_image(path) as image:
            if image.mode in ("P", "PA"):
                image.load()
                palette_pixels = np.asarray(image)
                indices = palette_pixels if palette_pixels.ndim == 2 else palette_pixels[..., 0]
                return indices, None
            is_plain = image.mode in ("L", "RGB", "I;16")
            return None, image.info.get("transparency") if is_plain else None
    except OSError:
        return None, None  # a TIFF that only tifffile can read


def _split_alpha(image: StoredImage, path: Path, key: Any) -> tuple[Values, Values | None]:
    """Return color and opacity; gray that is stored as RGB is reduced to one channel."""
    if image.layout == "bands":
        raise DataError(
            f"the mask {path} has {image.pixels.shape[2]} channels that are not colors; store "
            "the mask in a file of one channel"
        )
    pixels = round_ids(image.pixels, path, "the mask")
    if pixels.dtype.kind == "i" and (pixels < 0).any():
        y, x = np.argwhere((pixels < 0).any(axis=2))[0]
        raise DataError(
            f"the mask {path} holds {pixels[y, x].min()} at x {x}, y {y}; values of a mask are "
            "not negative"
        )
    alpha = None
    if image.layout.endswith("alpha"):
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    elif key is not None and not isinstance(key, bytes):
        limit = np.iinfo(image.pixels.dtype).max
        alpha = np.where((pixels == np.reshape(key, (1, 1, -1))).all(axis=2), 0, int(limit))
    if alpha is not None and (alpha == _largest_value(alpha)).all():
        alpha = None
    return _without_equal_channels(pixels), alpha


def _without_equal_channels(pixels: Values) -> Values:
    if pixels.shape[2] == 1 or (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    return pixels


def count_values(values: Values) -> tuple[Values, Values]:
    """Return the distinct values in ascending order, and the number of pixels of each."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # `np.unique` takes 10x as long
        counts = np.bincount(values.ravel())
        present = np.flatnonzero(counts)
        return present, counts[present]
    return np.unique(values, return_counts=True)


def is_nearly_gray(image: MaskImage) -> bool:
    """Return whether the channels differ by no more than those of a gray JPEG."""
    if image.color.ndim == 2:
        return True
    spread = np.ptp(image.color, axis=2)
    return float(np.percentile(spread, 99.9)) <= _GRAY_TOLERANCE * image.color_max / 255


def _largest_value(values: Values) -> int:
    """Return the value of white, inferred from the values: 16-bit files may use only 0 to 255."""
    largest = int(values.max(initial=0))
    if largest <= 255:
        return 255
    return 65535 if largest <= 65535 else largest
