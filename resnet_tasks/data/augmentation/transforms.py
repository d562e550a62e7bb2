"""Augmentation of images together with their annotations."""

from __future__ import annotations

import inspect
import itertools
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from albumentations.augmentations.crops.transforms import CropSizeError
from numpy.typing import NDArray

from resnet_tasks.data.augmentation import color
from resnet_tasks.data.augmentation.aligned import ALIGNED
from resnet_tasks.data.augmentation.instance_masks import join_masks, transform_masks
from resnet_tasks.data.images.preprocessing import to_unit_range
from resnet_tasks.errors import RecipeError, format_error
from resnet_tasks.registry import find_nearest, suggest_nearest
from resnet_tasks.structures.evaluation import UNLABELED, VOID
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.targets import Target

Array = NDArray[Any]

_REFUSALS = (
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    NotImplementedError,
    cv2.error,
    CropSizeError,
)
"""Exceptions of albumentations for images that a transform does not support."""

_TURNS = (
    albumentations.D4,
    albumentations.HorizontalFlip,
    albumentations.RandomRotate90,
    albumentations.Transpose,
    albumentations.VerticalFlip,
)
"""Transforms that keep the whole image."""
_EXACT_MOVES = (
    *_TURNS,
    albumentations.CenterCrop,
    albumentations.Crop,
    albumentations.RandomCrop,
)
"""Transforms that move values without creating new ones. Their results on uint8 and float images
are equal."""

_MASK_READERS = (albumentations.CropNonEmptyMaskIfExists, albumentations.PixelDropout)
"""Transforms whose parameters depend on the instance masks if there is no label map."""

_FASTER_TRANSFORMS = {
    transform_class.__name__: transform_class
    for transform_class in (color.ColorJitter, color.RandomBrightnessContrast)
}
"""Replacements of albumentations' transforms. They keep values in 0..1, as moves do."""

MIN_SIDE = 1 - 1e-3
"""Minimum length in pixels of the shorter side of a box after augmentation: 1, minus a tolerance
for rounding. Boxes that were smaller before are kept."""


def encode_labels(labels: Array) -> Array:
    """Encode semantic labels as small unsigned values: void 0, unlabeled 1, label k is k + 2.

    Void is 0 because albumentations fills pixels from outside the image with 0.
    """
    largest = int(labels.max(initial=0)) + 2
    shifted = np.where(labels == VOID, 0, np.where(labels == UNLABELED, 1, labels + 2))
    return shifted.astype(np.uint8 if largest < 256 else np.uint16)


def decode_labels(encoded: Array) -> NDArray[np.int64]:
    """Invert `encode_labels`."""
    values = encoded.astype(np.int64)
    return np.where(values == 0, VOID, np.where(values == 1, UNLABELED, values - 2))


class _UnitRange(albumentations.NoOp):  # type: ignore[misc]
    """Conversion of uint8 to float in 0..1, which consumes no random numbers.

    The random draws of all other transforms are therefore the same with and without it.
    """

    def __call__(self, *_: Any, **inputs: Any) -> Any:
        return {**inputs, "image": to_unit_range(inputs["image"])}


class Augmentation:
    """Albumentations pipeline for an image and its boxes, labels, masks and semantic map.

    The result is a function of the image, its annotations and the passed seed only.

    Args:
        steps: `{name: parameters}` in order, with names of albumentations' transforms.
        channels: Number of channels of the images. Color transforms only support 3, some also 1.

    Raises:
        RecipeError: If a name or a parameter is unknown, or a transform does not support this
            number of channels.
    """

    def __init__(
        self, steps: Sequence[Mapping[str, Mapping[str, Any] | None]], channels: int = 3
    ) -> None:
        _warn_about_successor()
        named_steps = [
            (i, name, params) for i, step in enumerate(steps) for name, params in step.items()
        ]
        transforms = [_build_transform(name, params, i) for i, name, params in named_steps]
        if channels != 3:
            for i, name, params in named_steps:
                _require_channels(name, params, i, channels)
        moves = _count_leading_moves(transforms)
        self._makes_values = moves < len(transforms)
        if self._makes_values:
            transforms.insert(moves, _UnitRange())
        bounded = (*_EXACT_MOVES, *_FASTER_TRANSFORMS.values(), _UnitRange)
        self._keeps_objects = all(_keeps_objects(transform) for transform in transforms)
        self._needs_masks = any(isinstance(transform, _MASK_READERS) for transform in transforms)
        self._may_leave_range = not all(type(transform) in bounded for transform in transforms)
        with warnings.catch_warnings():
            # Boxes are passed even if all transforms only change pixels, which raises a warning.
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

    def __call__(self, image: Array, target: Target, seed: int) -> tuple[Array, Target]:
        """Augment one image.

        Args:
            image: `(h, w, C)` float32 in 0..1, or uint8 that represents 0..1 (`to_unit_range`).
                With uint8, the leading steps that only move pixels process a quarter of the bytes.
            target: Annotations in pixels of the image.
            seed: Seed of all randomness.

        Returns:
            The new image, float32 clipped to 0..1 (the input type if all steps only move pixels),
            and its annotations. Boxes are clipped to the image. Objects outside it are removed
            together with their labels, flags and masks. So are objects with less than `MIN_SIDE`
            pixels left: no anchor fits such a sliver, and the box offsets of an empty box are
            undefined.

        Raises:
            RecipeError: If a transform does not support such images.
        """
        # All transforms share one random stream. `set_random_seed` would give each of them the same
        # stream, so that two flips with p=0.5 would always occur together.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        inputs: dict[str, Any] = {"image": image}
        boxes = target.boxes if target.boxes is not None else torch.zeros(0, 4)
        inputs["bboxes"] = boxes.numpy()
        inputs["index"] = np.arange(len(boxes))
        if target.semantic is not None:
            inputs["mask"] = encode_labels(target.semantic.numpy())
        if self._needs_masks and "mask" not in inputs and target.masks is not None:
            inputs["masks"] = join_masks(target.masks, image.shape[:2])[None]
        try:
            outputs = (
                self._apply_transforms(inputs) if self._keeps_objects else self._compose(**inputs)
            )
        except _REFUSALS as error:
            raise RecipeError(
                f"augment: albumentations rejects a {image.dtype} image of shape {image.shape}: "
                f"{format_error(error)}; remove that transform"
            ) from None
        augmented = outputs["image"]
        kind = np.float32 if self._makes_values else image.dtype
        if not _is_image(augmented, image.shape[2], kind):
            raise RecipeError(
                f"augment: the steps turn a {image.dtype} image of shape {image.shape} into "
                f"{augmented.dtype} of shape {tuple(augmented.shape)}; remove the transform that "
                "changes channels or type (ToTensorV2 and FromFloat are not needed here)"
            )
        if self._may_leave_range:
            augmented = np.clip(augmented, 0.0, 1.0)
        return augmented, self._update_target(target, inputs, outputs)

    def _apply_transforms(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the output of `Compose` for steps that never cut an object.

        The box checks of `Compose` before and after every step take longer than flipping the image.
        """
        self._compose.py_random.random()  # Compose draws this number to decide whether to run
        boxes = inputs["bboxes"] / _get_box_scale(inputs["image"])
        outputs = {**inputs, "bboxes": np.clip(boxes, 0.0, 1.0)}
        for transform in self._compose.transforms:
            outputs = transform(**outputs)
        return {**outputs, "bboxes": outputs["bboxes"] * _get_box_scale(outputs["image"])}

    def _update_target(
        self, target: Target, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> Target:
        """Return the target with the transformed annotations."""
        changes: dict[str, Any] = {}
        masks = target.masks
        if target.boxes is not None:
            kept_indices = np.asarray(outputs["index"], dtype=np.int64).reshape(-1)
            boxes = np.array(outputs["bboxes"], dtype=np.float32).reshape(-1, 4)
            is_visible = _find_still_visible(boxes, inputs["bboxes"][kept_indices])
            kept_indices = kept_indices[is_visible]
            changes["boxes"] = torch.from_numpy(boxes[is_visible])
            if not np.array_equal(kept_indices, inputs["index"]):
                indices = torch.from_numpy(kept_indices)
                for name in ("labels", "ignore"):
                    values = getattr(target, name)
                    changes[name] = None if values is None else values[indices]
                masks = None if masks is None else masks.select(indices)
        if masks is not None:
            changes["masks"] = self._transform_masks(masks)
        if target.semantic is not None:
            changes["semantic"] = torch.from_numpy(decode_labels(outputs["mask"]))
        return replace(target, **changes)

    def _transform_masks(self, masks: InstanceMasks) -> InstanceMasks:
        """Apply the transforms to the masks with the parameters that were drawn for the image."""
        for transform in self._compose.transforms:
            params = transform.get_applied_params()  # empty if it was not applied
            if params and not isinstance(transform, albumentations.ImageOnlyTransform):
                masks = transform_masks(transform, masks, params)
        return masks


def _get_box_scale(image: Array) -> NDArray[np.float32]:
    """Return (width, height, width, height), which normalizes boxes to the image size."""
    height, width = image.shape[:2]
    return np.array([width, height, width, height], np.float32)


def _keeps_objects(transform: Any) -> bool:
    """Return whether a transform never cuts an object."""
    return type(transform) in (*_TURNS, _UnitRange) or isinstance(
        transform, albumentations.ImageOnlyTransform
    )


def _count_leading_moves(transforms: Sequence[Any]) -> int:
    """Return the number of leading transforms that only move pixels."""
    moves = (type(transform) in _EXACT_MOVES for transform in transforms)
    return sum(1 for _ in itertools.takewhile(bool, moves))


def _find_still_visible(boxes: Array, before: Array) -> NDArray[np.bool_]:
    """Return `(N,)` bool, whether each object is still large enough to be kept.

    Args:
        boxes: `(N, 4)` xyxy after the augmentation.
        before: `(N, 4)` xyxy before the augmentation.
    """
    side, was = ((box_array[:, 2:] - box_array[:, :2]).min(axis=1) for box_array in (boxes, before))
    return np.asarray((side >= MIN_SIDE) | ((was < MIN_SIDE) & (side > 0)))


def _is_image(output: Any, channels: int, kind: Any = np.float32) -> bool:
    return (
        isinstance(output, np.ndarray)
        and output.dtype == kind
        and output.ndim == 3
        and output.shape[2] == channels
    )


def _require_channels(
    name: str, params: Mapping[str, Any] | None, position: int, channels: int
) -> None:
    """Try a transform on a small image, so that an unsupported one fails before training.

    Raises:
        RecipeError: If it supports 3 channels, but not `channels`.
    """
    # The small image may lack the size, annotations or other images that a transform needs. Such
    # a transform also fails with 3 channels and is accepted.
    if not _supports_channels(name, params, channels) and _supports_channels(name, params, 3):
        also = " or 1" if channels != 1 and _supports_channels(name, params, 1) else ""
        raise RecipeError(
            f"augment.{position}.{name} supports only images of 3{also} channels, but "
            f"data.channels is {channels}; remove this transform"
        )


def _supports_channels(name: str, params: Mapping[str, Any] | None, channels: int) -> bool:
    transform = _build_transform(name, {**(params or {}), "p": 1.0}, 0)
    image = np.random.default_rng(0).random((64, 64, channels), dtype=np.float32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "not applicable to gray images"
            output = albumentations.Compose([transform], seed=0)(image=image)["image"]
    except (Warning, *_REFUSALS):
        return False
    return _is_image(output, channels)


def get_transform_class(name: str) -> Any:
    """Return the class of a transform: this package's replacement, else that of albumentations."""
    replaced = _FASTER_TRANSFORMS | ALIGNED
    return replaced.get(name, getattr(albumentations, name, None))


def _build_transform(name: str, params: Mapping[str, Any] | None, position: int) -> Any:
    transform_class = get_transform_class(name)
    if not (
        inspect.isclass(transform_class)
        and issubclass(transform_class, albumentations.BasicTransform)
    ):
        names = [
            candidate_name
            for candidate_name, candidate in vars(albumentations).items()
            if inspect.isclass(candidate) and issubclass(candidate, albumentations.BasicTransform)
        ]
        hint = suggest_nearest(name, names)
        raise RecipeError(
            f"augment.{position}: {name!r} is not a transform of albumentations 2.0.8{hint}"
        )
    _require_unmixed_labels(name, params or {}, position)
    with warnings.catch_warnings():
        # Albumentations only warns about an unknown parameter and then ignores it.
        warnings.simplefilter("error")
        try:
            return transform_class(**dict(params or {}))
        except (Warning, TypeError, ValueError) as error:
            allowed = [
                parameter
                for parameter in inspect.signature(transform_class).parameters
                if parameter != "self"
            ]
            message = " ".join(str(error).split())
            unknown = next(
                (parameter for parameter in params or {} if parameter not in allowed), None
            )
            close = None if unknown is None else find_nearest(unknown, allowed)
            hint = f"; for {unknown!r}, did you mean {close!r}?" if close else ""
            raise RecipeError(
                f"augment.{position}.{name}: {message} (parameters are: {', '.join(allowed)}){hint}"
            ) from None


def _require_unmixed_labels(name: str, params: Mapping[str, Any], position: int) -> None:
    """Reject parameters that would average the labels of neighboring pixels.

    Raises:
        RecipeError: If there is such a parameter.
    """
    location = f"augment.{position}.{name}"
    mode = params.get("mask_interpolation", cv2.INTER_NEAREST)
    if mode not in (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT):
        raise RecipeError(
            f"{location}.mask_interpolation is {mode!r}, which would mix the labels of neighboring "
            f"pixels; allowed: {cv2.INTER_NEAREST} and {cv2.INTER_NEAREST_EXACT} (nearest), or "
            "remove the key"
        )
    if params.get("area_for_downscale") == "image_mask":
        raise RecipeError(
            f"{location}.area_for_downscale is 'image_mask', which would mix the labels of "
            "neighboring pixels; set it to 'image'"
        )


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
