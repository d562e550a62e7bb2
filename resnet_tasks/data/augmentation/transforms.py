"""Augmentation: images and annotations that change together."""

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
from resnet_tasks.data.images.preprocessing import to_unit_range
from resnet_tasks.errors import RecipeError
from resnet_tasks.registry import find_nearest, suggest_nearest
from resnet_tasks.structures.evaluation import UNLABELED, VOID
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
"""What albumentations raises on images that a transform cannot take."""

_TURNS = (
    albumentations.D4,
    albumentations.HorizontalFlip,
    albumentations.RandomRotate90,
    albumentations.Transpose,
    albumentations.VerticalFlip,
)
"""All of the image stays in it."""
_EXACT_MOVES = (
    *_TURNS,
    albumentations.CenterCrop,
    albumentations.Crop,
    albumentations.RandomCrop,
)
"""They put values elsewhere and make no new ones: of 8 bits they are the same as of floats."""

_FASTER_TRANSFORMS = {
    transform_class.__name__: transform_class
    for transform_class in (color.ColorJitter, color.RandomBrightnessContrast)
}
"""Instead of albumentations' own. They leave values in 0..1, as moves do."""

LEAST_SEEN = 1 - 1e-3
"""Pixels that must be left of the shorter side of a larger object: one, up to rounding."""


def encode_labels(labels: Array) -> Array:
    """Semantic labels as small unsigned values: void 0, unlabeled 1, label k is k + 2.

    Void is 0, so that what a warp pulls in from outside the image (albumentations fills 0) is
    void.
    """
    largest = int(labels.max(initial=0)) + 2
    shifted = np.where(labels == VOID, 0, np.where(labels == UNLABELED, 1, labels + 2))
    return shifted.astype(np.uint8 if largest < 256 else np.uint16)


def decode_labels(encoded: Array) -> NDArray[np.int64]:
    """The inverse of `encode_labels`."""
    values = encoded.astype(np.int64)
    return np.where(values == 0, VOID, np.where(values == 1, UNLABELED, values - 2))


class _UnitRange(albumentations.NoOp):  # type: ignore[misc]
    """Where 8 bits become floats in 0..1. It draws nothing, so that the others draw as without."""

    def __call__(self, *_: Any, **inputs: Any) -> Any:
        return {**inputs, "image": to_unit_range(inputs["image"])}


class Augmentation:
    """Albumentations over image, boxes, labels, masks and semantic map, moving together.

    What happens to an image is a function of the seed given with it and of nothing else.

    Args:
        steps: `{name: parameters}` in order; names of albumentations' transforms.
        channels: Of the images. Transforms of color work on 3 only, some on 1 as well.

    Raises:
        RecipeError: If a name or a parameter is unknown, or a transform does not work on so many
            channels.
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
        self._may_leave_range = not all(type(transform) in bounded for transform in transforms)
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

    def __call__(self, image: Array, target: Target, seed: int) -> tuple[Array, Target]:
        """Augments one image.

        Args:
            image: `(h, w, C)` float32, 0..1; or 8 bits that stand for it (`unit_range`), of which
                the first steps that only move pixels move a quarter of the bytes.
            target: Its annotations, in the image's pixels.
            seed: Decides everything random.

        Returns:
            The new image, float32 clipped to 0..1 (as given where all steps only move pixels),
            and its annotations; boxes clipped to the image, objects outside it removed together
            with their labels, flags and masks. So are those of which less than `LEAST_SEEN` is
            left: no anchor can fit such a sliver, and one without area has no offsets to learn.

        Raises:
            RecipeError: If a transform does not work on such images.
        """
        # One shared stream: `set_random_seed` would give every transform the same one, so that two
        # flips of p=0.5 always came together.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        inputs: dict[str, Any] = {"image": image}
        boxes = target.boxes if target.boxes is not None else torch.zeros(0, 4)
        inputs["bboxes"] = boxes.numpy()
        inputs["index"] = np.arange(len(boxes))
        if target.semantic is not None:
            inputs["mask"] = encode_labels(target.semantic.numpy())
        if target.masks is not None and len(target.masks):
            inputs["masks"] = target.masks.numpy().astype(np.uint8)
        try:
            outputs = (
                self._apply_transforms(inputs) if self._keeps_objects else self._compose(**inputs)
            )
        except _REFUSALS as error:
            raise RecipeError(
                f"augment: albumentations refuses a {image.dtype} image of shape "
                f"{image.shape}: {_format_error(error)}; take that transform out"
            ) from None
        augmented = outputs["image"]
        kind = np.float32 if self._makes_values else image.dtype
        if not _is_image(augmented, image.shape[2], kind):
            raise RecipeError(
                f"augment: the steps make {augmented.dtype} of shape {tuple(augmented.shape)} of a "
                f"{image.dtype} image of shape {image.shape}; take the transform out that "
                "changes channels or type (ToTensorV2 and FromFloat are not needed here)"
            )
        if self._may_leave_range:
            augmented = np.clip(augmented, 0.0, 1.0)
        return augmented, _update_target(target, inputs, outputs)

    def _apply_transforms(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What `Compose` makes of the same, where no step cuts an object.

        Its checks of the boxes, before and after every step, take longer than flipping the image.
        """
        self._compose.py_random.random()  # whether to do anything at all: drawn there
        boxes = inputs["bboxes"] / _get_box_scale(inputs["image"])
        outputs = {**inputs, "bboxes": np.clip(boxes, 0.0, 1.0)}
        for transform in self._compose.transforms:
            outputs = transform(**outputs)
        return {**outputs, "bboxes": outputs["bboxes"] * _get_box_scale(outputs["image"])}


def _update_target(target: Target, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Target:
    """Annotations as they were `outputs` of those that were `inputs`."""
    changes: dict[str, Any] = {}
    if target.boxes is not None:
        kept_indices = np.asarray(outputs["index"], dtype=np.int64).reshape(-1)
        boxes = np.array(outputs["bboxes"], dtype=np.float32).reshape(-1, 4)
        is_visible = _find_still_visible(boxes, inputs["bboxes"][kept_indices])
        kept_indices = kept_indices[is_visible]
        changes["boxes"] = torch.from_numpy(boxes[is_visible])
        if not np.array_equal(kept_indices, inputs["index"]):
            for name in ("labels", "ignore"):
                values = getattr(target, name)
                changes[name] = None if values is None else values[torch.from_numpy(kept_indices)]
        if "masks" in inputs:
            changes["masks"] = torch.from_numpy(np.stack(list(outputs["masks"]))[kept_indices] > 0)
    if target.masks is not None and not len(target.masks):
        changes["masks"] = target.masks.new_zeros((0, *outputs["image"].shape[:2]))
    if target.semantic is not None:
        changes["semantic"] = torch.from_numpy(decode_labels(outputs["mask"]))
    return replace(target, **changes)


def _get_box_scale(image: Array) -> NDArray[np.float32]:
    """(width, height, width, height), by which boxes become shares of the image."""
    height, width = image.shape[:2]
    return np.array([width, height, width, height], np.float32)


def _keeps_objects(transform: Any) -> bool:
    """Whether objects stay as a whole where they are seen."""
    return type(transform) in (*_TURNS, _UnitRange) or isinstance(
        transform, albumentations.ImageOnlyTransform
    )


def _count_leading_moves(transforms: Sequence[Any]) -> int:
    """How many of the first transforms only move pixels."""
    moves = (type(transform) in _EXACT_MOVES for transform in transforms)
    return sum(1 for _ in itertools.takewhile(bool, moves))


def _find_still_visible(boxes: Array, before: Array) -> NDArray[np.bool_]:
    """`(N,)`: whether enough is left of objects; `(N, 4)` boxes now and as they were."""
    side, was = ((box_array[:, 2:] - box_array[:, :2]).min(axis=1) for box_array in (boxes, before))
    return np.asarray((side >= LEAST_SEEN) | ((was < LEAST_SEEN) & (side > 0)))


def _is_image(output: Any, channels: int, kind: Any = np.float32) -> bool:
    return (
        isinstance(output, np.ndarray)
        and output.dtype == kind
        and output.ndim == 3
        and output.shape[2] == channels
    )


def _format_error(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _require_channels(
    name: str, params: Mapping[str, Any] | None, position: int, channels: int
) -> None:
    """Tries a transform on a small image, so that it is refused before the first step.

    Raises:
        RecipeError: If it works on 3 channels, but not on so many.
    """
    # Sizes, annotations or other images that it needs may be missing here; that shows with 3.
    if not _supports_channels(name, params, channels) and _supports_channels(name, params, 3):
        also = " or 1" if channels != 1 and _supports_channels(name, params, 1) else ""
        raise RecipeError(
            f"augment.{position}.{name} works on images of 3{also} channels, but data.channels "
            f"is {channels}; take it out"
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


def _build_transform(name: str, params: Mapping[str, Any] | None, position: int) -> Any:
    replaced = _FASTER_TRANSFORMS | ALIGNED
    transform_class = replaced.get(name, getattr(albumentations, name, None))
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
        # Albumentations only warns of an unknown parameter and then ignores it.
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
    """Refuse parameters that would average the labels of neighboring pixels.

    Raises:
        RecipeError: If there is one.
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
