"""From a picture file to float32 pixels: decode, intensity, resize, augment.

The order is fixed: decode at full precision -> named intensity step -> float32 in 0..1 -> augment.
8-bit pictures are resized before the (linear) intensity step, everything else after it, so that
nothing is ever rounded to 8 bits that was not 8 bits in the file.
"""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import albumentations
import cv2
import numpy as np
import torch
from albumentations.augmentations.crops.transforms import CropSizeError
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from resnet_tasks.data.picture_files import open_picture
from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.registry import nearest
from resnet_tasks.structures import UNLABELLED, VOID, Target

MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded (decompression bombs); Pillow's own limit."""

Array = NDArray[Any]

_ORIENTATION = 274  # EXIF tag
_DEEP_GREY_MODES = {"I", "I;16", "I;16B", "I;16L", "F"}
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def read_image(path: Path, channels: int = 3) -> Array:
    """Decodes a picture at full precision, EXIF orientation applied.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP, ... 8 or 16 bits per channel, or float.
        channels: How many are wanted. Grey becomes 3 equal channels, an alpha channel is dropped
            when 3 are wanted, colour becomes luminance when 1 is wanted.

    Returns:
        `(height, width, channels)` in the file's own type (uint8, uint16, float32), RGB order.

    Raises:
        DataError: If the file is missing, not a picture, truncated, too large, or has other
            channels.
    """
    try:
        with open_picture(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(
                    f"{path} has {picture.width} x {picture.height} pixels, more than the limit "
                    f"of {MAX_PIXELS:,}; cut it into tiles"
                )
            raw_mode = _raw_mode(picture)
            orientation = picture.getexif().get(_ORIENTATION, 1)
            # Reading it whole finds truncation, which OpenCV would fill with grey in silence.
            picture.load()
            if picture.mode in _EIGHT_BIT_MODES and "16" not in raw_mode:
                return _eight_bit(picture, channels, path)
            if picture.mode in _DEEP_GREY_MODES:
                return _with_channels(_deep_grey(picture, raw_mode), channels, path)
    except FileNotFoundError:
        raise DataError(f"picture {path} does not exist") from None
    except UnidentifiedImageError:
        orientation = 1  # OpenCV reads a few formats that Pillow does not.
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} has more than the limit of {MAX_PIXELS:,} pixels; cut it into tiles"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"picture {path} cannot be read: {error}") from None
    return _with_channels(_upright(_deep_colour(path), orientation), channels, path)


def _raw_mode(picture: Image.Image) -> str:
    tiles = getattr(picture, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def _eight_bit(picture: Image.Image, channels: int, path: Path) -> Array:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("P", "PA"):  # Indices mean nothing without their palette.
        has_alpha = upright.mode == "PA" or "transparency" in upright.info
        upright = upright.convert("RGBA" if has_alpha else "RGB")
    if channels == 1:
        return np.asarray(upright.convert("L"))[:, :, None].copy()
    if channels == 3:
        return np.asarray(upright.convert("RGB")).copy()
    array = np.asarray(upright)
    return _with_channels(array[:, :, None] if array.ndim == 2 else array, channels, path)


def _deep_grey(picture: Image.Image, raw_mode: str) -> Array:
    """`(h, w, 1)` uint16, int32 or float32, upright."""
    array = np.asarray(ImageOps.exif_transpose(picture))
    # Older releases of Pillow decode 16-bit PNGs to 32 bits.
    is_unsigned_16 = "16" in raw_mode and "S" not in raw_mode
    kind = np.uint16 if is_unsigned_16 else array.dtype.newbyteorder("=")
    return array.astype(kind)[:, :, None]


def _deep_colour(path: Path) -> Array:
    """`(h, w, C)` in the file's own type, as stored (not turned)."""
    try:
        array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        array = None
    if array is None:
        raise DataError(f"{path} is not a picture that can be read (PNG, JPEG, TIFF, BMP, WebP)")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] >= 3:  # OpenCV's order is BGR(A)
        array = np.concatenate((array[:, :, 2::-1], array[:, :, 3:]), axis=2)
    return np.asarray(array)


def _upright(array: Array, orientation: int) -> Array:
    """`(h, w, C)` turned as EXIF's orientation (1..8) asks."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def _with_channels(array: Array, channels: int, path: Path) -> Array:
    present = array.shape[2]
    if present == channels:
        return np.ascontiguousarray(array)
    if channels == 3 and present == 1:
        return np.repeat(array, 3, axis=2)
    if channels == 3 and present == 4:
        return np.ascontiguousarray(array[:, :, :3])
    if channels == 1 and present in (3, 4):
        weights = np.asarray([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601 luma
        grey = array[:, :, :3] @ weights
        if array.dtype.kind != "f":
            grey = np.rint(grey)
        return np.asarray(grey.astype(array.dtype)[:, :, None])
    raise DataError(
        f"{path} has {present} channel(s), the recipe asks for data.channels={channels}; "
        f"set data.channels={present}"
    )


@dataclass(frozen=True)
class Intensity:
    """How stored values become 0..1.

    Attributes:
        type: `auto` divides by the type's range (floats must be 0..1 already), `window` maps level
            +- width/2 to 0..1, `percentile` maps the picture's own `low`..`high` percentiles to
            0..1.
        level: Centre of the window, in stored values.
        width: Width of the window, in stored values.
        low: Lower percentile.
        high: Upper percentile.
    """

    type: Literal["auto", "window", "percentile"] = "auto"
    level: float | None = None
    width: float | None = None
    low: float = 0.5
    high: float = 99.5

    def __call__(self, image: Array, where: str = "the picture") -> NDArray[np.float32]:
        """`image` as float32 in 0..1.

        Raises:
            DataError: If `auto` meets values it cannot place, or a value is not finite.
        """
        if self.type == "auto":
            return self._by_type(image, where)
        values = image.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{where} holds values that are not finite; repair the file")
        if self.type == "window":
            assert self.level is not None
            assert self.width is not None
            low, high = self.level - self.width / 2, self.level + self.width / 2
        else:
            low, high = (float(each) for each in np.percentile(values, (self.low, self.high)))
        scaled = (values - low) / max(high - low, 1e-6)
        return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)

    @staticmethod
    def _by_type(image: Array, where: str) -> NDArray[np.float32]:
        if image.dtype == np.uint8:
            return np.multiply(image, np.float32(1 / 255), dtype=np.float32)
        if image.dtype == np.uint16:
            return np.multiply(image, np.float32(1 / 65535), dtype=np.float32)
        values = image.astype(np.float32)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise DataError(
                f"{where} holds {image.dtype} values from {values.min():g} to {values.max():g}, "
                "whose range is not known; set data.intensity to a window (level, width) "
                "or to percentile"
            )
        return values


@dataclass(frozen=True)
class Resize:
    """Brings pictures to one box.

    Attributes:
        height: Of the box, pixels.
        width: Of the box, pixels.
        keep_ratio: Fit inside the box; False stretches to it exactly.
    """

    height: int
    width: int
    keep_ratio: bool = True

    def size(self, original: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that a picture of size `original` gets."""
        if not self.keep_ratio:
            return (self.height, self.width)
        scale = min(self.height / original[0], self.width / original[1])
        return (max(1, round(original[0] * scale)), max(1, round(original[1] * scale)))


def resize_pixels(image: Array, size: tuple[int, int]) -> Array:
    """`(h, w, C)` at a new (height, width): by area when shrinking, else bilinear."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    if image.shape[2] > 4:  # OpenCV shrinks by area at most 4 channels at once.
        parts = [image[:, :, i : i + 4] for i in range(0, image.shape[2], 4)]
        return np.concatenate([resize_pixels(part, size) for part in parts], axis=2)
    resized = cv2.resize(image, (size[1], size[0]), interpolation=mode)
    return np.asarray(resized[:, :, None] if resized.ndim == 2 else resized)


def resize_labels(labels: Array, size: tuple[int, int]) -> Array:
    """`(h, w)` labels at a new (height, width), by the nearest pixel centre."""
    if labels.shape == size:
        return labels
    return np.asarray(cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT))


def encode_labels(labels: Array) -> Array:
    """Semantic labels as small unsigned values: void 0, unlabelled 1, label k is k + 2.

    Void is 0, so that what a warp pulls in from outside the picture (albumentations fills 0) is
    void.
    """
    largest = int(labels.max(initial=0)) + 2
    shifted = np.where(labels == VOID, 0, np.where(labels == UNLABELLED, 1, labels + 2))
    return shifted.astype(np.uint8 if largest < 256 else np.uint16)


def decode_labels(encoded: Array) -> NDArray[np.int64]:
    """The inverse of `encode_labels`."""
    values = encoded.astype(np.int64)
    return np.where(values == 0, VOID, np.where(values == 1, UNLABELLED, values - 2))


class Augmentation:
    """Albumentations over picture, boxes, labels, masks and semantic map, moving together.

    What happens to a picture is a function of the seed given with it and of nothing else.

    Args:
        steps: `{name: parameters}` in order; names of albumentations' transforms.

    Raises:
        RecipeError: If a name or a parameter is unknown.
    """

    def __init__(self, steps: Sequence[Mapping[str, Mapping[str, Any] | None]]) -> None:
        _warn_about_successor()
        transforms = [
            _transform(name, params, i)
            for i, step in enumerate(steps)
            for name, params in step.items()
        ]
        with warnings.catch_warnings():
            # Boxes are given also where all transforms change pixels only.
            warnings.filterwarnings("ignore", "Got processor for bboxes", UserWarning)
            self._compose = albumentations.Compose(
                transforms,
                bbox_params=albumentations.BboxParams(
                    format="pascal_voc",
                    label_fields=["index"],
                    clip=True,
                    filter_invalid_bboxes=True,
                ),
            )

    def __call__(
        self, image: NDArray[np.float32], target: Target, seed: int
    ) -> tuple[NDArray[np.float32], Target]:
        """Augments one picture.

        Args:
            image: `(h, w, C)` float32, 0..1.
            target: Its annotations, in the picture's pixels.
            seed: Decides everything random.

        Returns:
            The new picture, clipped to 0..1, and its annotations; boxes clipped to the picture,
            objects outside it removed together with their labels, flags and masks.

        Raises:
            RecipeError: If a transform does not work on such pictures.
        """
        # One shared stream: `set_random_seed` would give every transform the same one, so that two
        # flips of p=0.5 always came together.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        given: dict[str, Any] = {"image": image}
        boxes = target.boxes if target.boxes is not None else torch.zeros(0, 4)
        given["bboxes"] = boxes.numpy()
        given["index"] = np.arange(len(boxes))
        if target.semantic is not None:
            given["mask"] = encode_labels(target.semantic.numpy())
        if target.masks is not None and len(target.masks):
            given["masks"] = target.masks.numpy().astype(np.uint8)
        try:
            made = self._compose(**given)
        except (TypeError, ValueError, cv2.error, CropSizeError) as error:
            raise RecipeError(
                f"augment: albumentations refuses a float32 picture of shape "
                f"{image.shape}: {error}; take that transform out"
            ) from None
        changes: dict[str, Any] = {}
        if target.boxes is not None:
            kept = torch.as_tensor(np.asarray(made["index"], dtype=np.int64).reshape(-1))
            new = np.asarray(made["bboxes"], dtype=np.float32).reshape(-1, 4)
            changes["boxes"] = torch.from_numpy(new.copy())
            changes["labels"] = None if target.labels is None else target.labels[kept]
            changes["ignore"] = None if target.ignore is None else target.ignore[kept]
            if "masks" in given:
                changes["masks"] = torch.from_numpy(np.stack(list(made["masks"])) > 0)[kept]
        if target.masks is not None and not len(target.masks):
            changes["masks"] = target.masks.new_zeros((0, *made["image"].shape[:2]))
        if target.semantic is not None:
            changes["semantic"] = torch.from_numpy(decode_labels(made["mask"]))
        return np.clip(made["image"], 0.0, 1.0), replace(target, **changes)


def _transform(name: str, params: Mapping[str, Any] | None, position: int) -> Any:
    found = getattr(albumentations, name, None)
    if not (inspect.isclass(found) and issubclass(found, albumentations.BasicTransform)):
        names = [
            each
            for each, item in vars(albumentations).items()
            if inspect.isclass(item) and issubclass(item, albumentations.BasicTransform)
        ]
        close = nearest(name, names)
        hint = f"; did you mean {close!r}?" if close else ""
        raise RecipeError(
            f"augment.{position}: {name!r} is not a transform of albumentations 2.0.8{hint}"
        )
    with warnings.catch_warnings():
        # Albumentations only warns of an unknown parameter and then ignores it.
        warnings.simplefilter("error")
        try:
            return found(**dict(params or {}))
        except (Warning, TypeError, ValueError) as error:
            allowed = [each for each in inspect.signature(found).parameters if each != "self"]
            message = " ".join(str(error).split())
            unknown = next((each for each in params or {} if each not in allowed), None)
            close = None if unknown is None else nearest(unknown, allowed)
            hint = f"; for {unknown!r}, did you mean {close!r}?" if close else ""
            raise RecipeError(
                f"augment.{position}.{name}: {message} (parameters are: {', '.join(allowed)}){hint}"
            ) from None


def _warn_about_successor() -> None:
    try:
        version("albumentationsx")
    except PackageNotFoundError:
        return
    warnings.warn(
        "albumentationsx (AGPL) is installed and takes the import name of albumentations (MIT); "
        "uninstall it and install albumentations==2.0.8",
        stacklevel=3,
    )
