"""Augmentation: pictures and annotations that change together."""

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

from resnet_tasks.data import colour
from resnet_tasks.data.aligned import ALIGNED
from resnet_tasks.data.preparation import unit_range
from resnet_tasks.errors import RecipeError
from resnet_tasks.registry import did_you_mean, nearest
from resnet_tasks.structures import UNLABELLED, VOID, Target

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
"""What albumentations raises on pictures that a transform cannot take."""

_TURNS = (
    albumentations.D4,
    albumentations.HorizontalFlip,
    albumentations.RandomRotate90,
    albumentations.Transpose,
    albumentations.VerticalFlip,
)
"""All of the picture stays in it."""
_EXACT_MOVES = (
    *_TURNS,
    albumentations.CenterCrop,
    albumentations.Crop,
    albumentations.RandomCrop,
)
"""They put values elsewhere and make no new ones: of 8 bits they are the same as of floats."""

_QUICKER = {each.__name__: each for each in (colour.ColorJitter, colour.RandomBrightnessContrast)}
"""Instead of albumentations' own. They leave values in 0..1, as moves do."""

LEAST_SEEN = 1 - 1e-3
"""Pixels that must be left of the shorter side of a larger object: one, up to rounding."""


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


class _UnitRange(albumentations.NoOp):  # type: ignore[misc]
    """Where 8 bits become floats in 0..1. It draws nothing, so that the others draw as without."""

    def __call__(self, *_: Any, **given: Any) -> Any:
        return {**given, "image": unit_range(given["image"])}


class Augmentation:
    """Albumentations over picture, boxes, labels, masks and semantic map, moving together.

    What happens to a picture is a function of the seed given with it and of nothing else.

    Args:
        steps: `{name: parameters}` in order; names of albumentations' transforms.
        channels: Of the pictures. Transforms of colour work on 3 only, some on 1 as well.

    Raises:
        RecipeError: If a name or a parameter is unknown, or a transform does not work on so many
            channels.
    """

    def __init__(
        self, steps: Sequence[Mapping[str, Mapping[str, Any] | None]], channels: int = 3
    ) -> None:
        _warn_about_successor()
        named = [(i, name, params) for i, step in enumerate(steps) for name, params in step.items()]
        transforms = [_transform(name, params, i) for i, name, params in named]
        if channels != 3:
            for i, name, params in named:
                _require_channels(name, params, i, channels)
        moves = _leading_moves(transforms)
        self._makes_values = moves < len(transforms)
        if self._makes_values:
            transforms.insert(moves, _UnitRange())
        bounded = (*_EXACT_MOVES, *_QUICKER.values(), _UnitRange)
        self._keeps_objects = all(_keeps_objects(each) for each in transforms)
        self._may_leave_range = not all(type(each) in bounded for each in transforms)
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
        """Augments one picture.

        Args:
            image: `(h, w, C)` float32, 0..1; or 8 bits that stand for it (`unit_range`), of which
                the first steps that only move pixels move a quarter of the bytes.
            target: Its annotations, in the picture's pixels.
            seed: Decides everything random.

        Returns:
            The new picture, float32 clipped to 0..1 (as given where all steps only move pixels),
            and its annotations; boxes clipped to the picture, objects outside it removed together
            with their labels, flags and masks. So are those of which less than `LEAST_SEEN` is
            left: no anchor can fit such a sliver, and one without area has no offsets to learn.

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
            made = self._turned(given) if self._keeps_objects else self._compose(**given)
        except _REFUSALS as error:
            raise RecipeError(
                f"augment: albumentations refuses a {image.dtype} picture of shape "
                f"{image.shape}: {_sentence(error)}; take that transform out"
            ) from None
        picture = made["image"]
        kind = np.float32 if self._makes_values else image.dtype
        if not _is_picture(picture, image.shape[2], kind):
            raise RecipeError(
                f"augment: the steps make {picture.dtype} of shape {tuple(picture.shape)} of a "
                f"{image.dtype} picture of shape {image.shape}; take the transform out that "
                "changes channels or type (ToTensorV2 and FromFloat are not needed here)"
            )
        if self._may_leave_range:
            picture = np.clip(picture, 0.0, 1.0)
        return picture, _changed(target, given, made)

    def _turned(self, given: dict[str, Any]) -> dict[str, Any]:
        """What `Compose` makes of the same, where no step cuts an object.

        Its checks of the boxes, before and after every step, take longer than flipping the picture.
        """
        self._compose.py_random.random()  # whether to do anything at all: drawn there
        boxes = given["bboxes"] / _sides(given["image"])
        made = {**given, "bboxes": np.clip(boxes, 0.0, 1.0)}
        for each in self._compose.transforms:
            made = each(**made)
        return {**made, "bboxes": made["bboxes"] * _sides(made["image"])}


def _changed(target: Target, given: Mapping[str, Any], made: Mapping[str, Any]) -> Target:
    """Annotations as they were `made` of those that were `given`."""
    changes: dict[str, Any] = {}
    if target.boxes is not None:
        kept = np.asarray(made["index"], dtype=np.int64).reshape(-1)
        boxes = np.array(made["bboxes"], dtype=np.float32).reshape(-1, 4)
        seen = _still_seen(boxes, given["bboxes"][kept])
        kept = kept[seen]
        changes["boxes"] = torch.from_numpy(boxes[seen])
        if not np.array_equal(kept, given["index"]):
            for name in ("labels", "ignore"):
                values = getattr(target, name)
                changes[name] = None if values is None else values[torch.from_numpy(kept)]
        if "masks" in given:
            changes["masks"] = torch.from_numpy(np.stack(list(made["masks"]))[kept] > 0)
    if target.masks is not None and not len(target.masks):
        changes["masks"] = target.masks.new_zeros((0, *made["image"].shape[:2]))
    if target.semantic is not None:
        changes["semantic"] = torch.from_numpy(decode_labels(made["mask"]))
    return replace(target, **changes)


def _sides(image: Array) -> NDArray[np.float32]:
    """(width, height, width, height), by which boxes become shares of the picture."""
    height, width = image.shape[:2]
    return np.array([width, height, width, height], np.float32)


def _keeps_objects(transform: Any) -> bool:
    """Whether objects stay as a whole where they are seen."""
    return type(transform) in (*_TURNS, _UnitRange) or isinstance(
        transform, albumentations.ImageOnlyTransform
    )


def _leading_moves(transforms: Sequence[Any]) -> int:
    """How many of the first transforms only move pixels."""
    moves = (type(each) in _EXACT_MOVES for each in transforms)
    return sum(1 for _ in itertools.takewhile(bool, moves))


def _still_seen(boxes: Array, before: Array) -> NDArray[np.bool_]:
    """`(N,)`: whether enough is left of objects; `(N, 4)` boxes now and as they were."""
    side, was = ((each[:, 2:] - each[:, :2]).min(axis=1) for each in (boxes, before))
    return np.asarray((side >= LEAST_SEEN) | ((was < LEAST_SEEN) & (side > 0)))


def _is_picture(made: Any, channels: int, kind: Any = np.float32) -> bool:
    return (
        isinstance(made, np.ndarray)
        and made.dtype == kind
        and made.ndim == 3
        and made.shape[2] == channels
    )


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _require_channels(
    name: str, params: Mapping[str, Any] | None, position: int, channels: int
) -> None:
    """Tries a transform on a small picture, so that it is refused before the first step.

    Raises:
        RecipeError: If it works on 3 channels, but not on so many.
    """
    # Sizes, annotations or other pictures that it needs may be missing here; that shows with 3.
    if not _works_on(name, params, channels) and _works_on(name, params, 3):
        also = " or 1" if channels != 1 and _works_on(name, params, 1) else ""
        raise RecipeError(
            f"augment.{position}.{name} works on pictures of 3{also} channels, but data.channels "
            f"is {channels}; take it out"
        )


def _works_on(name: str, params: Mapping[str, Any] | None, channels: int) -> bool:
    transform = _transform(name, {**(params or {}), "p": 1.0}, 0)
    picture = np.random.default_rng(0).random((64, 64, channels), dtype=np.float32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "not applicable to grey pictures"
            made = albumentations.Compose([transform], seed=0)(image=picture)["image"]
    except (Warning, *_REFUSALS):
        return False
    return _is_picture(made, channels)


def _transform(name: str, params: Mapping[str, Any] | None, position: int) -> Any:
    replaced = _QUICKER | ALIGNED
    found = replaced.get(name, getattr(albumentations, name, None))
    if not (inspect.isclass(found) and issubclass(found, albumentations.BasicTransform)):
        names = [
            each
            for each, item in vars(albumentations).items()
            if inspect.isclass(item) and issubclass(item, albumentations.BasicTransform)
        ]
        hint = did_you_mean(name, names)
        raise RecipeError(
            f"augment.{position}: {name!r} is not a transform of albumentations 2.0.8{hint}"
        )
    _require_unmixed_labels(name, params or {}, position)
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


def _require_unmixed_labels(name: str, params: Mapping[str, Any], position: int) -> None:
    """Refuse parameters that would average the labels of neighboring pixels.

    Raises:
        RecipeError: If there is one.
    """
    where = f"augment.{position}.{name}"
    mode = params.get("mask_interpolation", cv2.INTER_NEAREST)
    if mode not in (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT):
        raise RecipeError(
            f"{where}.mask_interpolation is {mode!r}, which would mix the labels of neighboring "
            f"pixels; allowed: {cv2.INTER_NEAREST} and {cv2.INTER_NEAREST_EXACT} (nearest), or "
            "remove the key"
        )
    if params.get("area_for_downscale") == "image_mask":
        raise RecipeError(
            f"{where}.area_for_downscale is 'image_mask', which would mix the labels of "
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
