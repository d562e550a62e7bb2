"""Albumentations transforms with corrected alignment of image and annotations.

Parameters and random draws are those of albumentations 2.0.8. Only the position of annotations
differs: label maps and masks are resized by the nearest pixel center, and boxes follow the same map
as the pixels. Boxes refer to pixel edges (the image spans 0 to its width), while OpenCV's matrices
refer to pixel centers (the first one is 0), so the two differ by half a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import albumentations
import cv2
import numpy as np
from albumentations.augmentations.crops import functional as crops
from albumentations.augmentations.geometric import functional as geometric
from numpy.typing import NDArray

from resnet_tasks.structures.label_maps import resize_labels

Array = NDArray[Any]

_TRUNCATION_MARGIN = 1 / 256
"""Pixels added to a rounded box edge, so that truncation of a normalized float loses no pixel."""


# --- label maps and masks: resized by the nearest pixel center


class _ResizedMasks:
    """Mixin with exact masks for the transforms that resize the image."""

    def compute_mask_size(self, size: tuple[int, int], /, **params: Any) -> tuple[int, int]:
        """Return the (height, width) after the transform, which is that of the image.

        Args:
            size: (height, width) before the transform.
            **params: Drawn parameters of the transform.
        """
        raise NotImplementedError

    def apply_to_mask(self, mask: Array, **params: Any) -> Array:
        """Resize a mask by the nearest pixel center."""
        size = (mask.shape[0], mask.shape[1])
        return resize_labels(mask, self.compute_mask_size(size, **params))


class Resize(_ResizedMasks, albumentations.Resize):  # type: ignore[misc]
    """`albumentations.Resize` with exact masks."""

    def compute_mask_size(self, _size: tuple[int, int], /, **_: Any) -> tuple[int, int]:
        """Return the size of every output."""
        return (self.height, self.width)


class RandomScale(_ResizedMasks, albumentations.RandomScale):  # type: ignore[misc]
    """`albumentations.RandomScale` with exact masks."""

    def compute_mask_size(self, size: tuple[int, int], /, **params: Any) -> tuple[int, int]:
        """Return the scaled size, rounded down."""
        return (int(size[0] * params["scale"]), int(size[1] * params["scale"]))


class _MaxSizeMasks(_ResizedMasks):
    """Mixin with exact masks for the transforms that scale to a longest or smallest side."""

    def compute_mask_size(self, size: tuple[int, int], /, **params: Any) -> tuple[int, int]:
        """Return the scaled size, rounded to nearest."""
        height, width = (max(1, round(side * params["scale"])) for side in size)
        return (height, width)


class LongestMaxSize(_MaxSizeMasks, albumentations.LongestMaxSize):  # type: ignore[misc]
    """`albumentations.LongestMaxSize` with exact masks."""


class SmallestMaxSize(_MaxSizeMasks, albumentations.SmallestMaxSize):  # type: ignore[misc]
    """`albumentations.SmallestMaxSize` with exact masks."""


class _SizedCropMasks:
    """Mixin with exact masks for the transforms that crop and then resize to `size`."""

    size: tuple[int, int]

    def apply_to_mask(self, mask: Array, crop_coords: tuple[int, int, int, int], **_: Any) -> Array:
        """Crop a mask and resize it by the nearest pixel center."""
        height, width = self.size
        return resize_labels(crops.crop(mask, *crop_coords), (height, width))


class RandomResizedCrop(_SizedCropMasks, albumentations.RandomResizedCrop):  # type: ignore[misc]
    """`albumentations.RandomResizedCrop` with exact masks."""


class RandomSizedCrop(_SizedCropMasks, albumentations.RandomSizedCrop):  # type: ignore[misc]
    """`albumentations.RandomSizedCrop` with exact masks."""


class RandomSizedBBoxSafeCrop(_SizedCropMasks, albumentations.RandomSizedBBoxSafeCrop):  # type: ignore[misc]
    """`albumentations.RandomSizedBBoxSafeCrop` with exact masks."""

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        """(height, width) of the output."""
        return (self.height, self.width)


class CropAndPad(albumentations.CropAndPad):  # type: ignore[misc]
    """`albumentations.CropAndPad` with exact masks if it keeps the size."""

    def apply_to_mask(
        self, mask: Array, crop_params: Any, pad_params: Any, fill_mask: Any, **params: Any
    ) -> Array:
        """Crop and pad a mask, then resize it to its original size by the nearest pixel center."""
        size = params["shape"][:2]
        moved = crops.crop_and_pad(
            mask,
            crop_params,
            pad_params,
            fill_mask,
            size,
            cv2.INTER_NEAREST,  # not used: nothing is resized with keep_size=False
            self.border_mode,
            keep_size=False,
        )
        return resize_labels(moved, tuple(size)) if self.keep_size else np.asarray(moved)


# --- boxes: moved with the matrix of the pixels


def _between_edges(matrix: Array) -> Array:
    """Convert a 3 x 3 matrix between pixel centers to the same map between pixel edges."""
    to_edges = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(to_edges @ matrix @ np.linalg.inv(to_edges))


class _BoxesByPixelMatrix(albumentations.DualTransform):  # type: ignore[misc]
    """Mixin for affine transforms that moves boxes with the same matrix as the pixels."""

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the matrix of the pixels and derive the matrix of the boxes from it."""
        sampled_params = super().get_params_dependent_on_data(params, data)
        return {**sampled_params, "bbox_matrix": _between_edges(sampled_params["matrix"])}


class Affine(_BoxesByPixelMatrix, albumentations.Affine):  # type: ignore[misc]
    """`albumentations.Affine` whose boxes follow the pixels, including with `fit_output`."""


class SafeRotate(_BoxesByPixelMatrix, albumentations.SafeRotate):  # type: ignore[misc]
    """`albumentations.SafeRotate` whose boxes follow the pixels."""


class Perspective(albumentations.Perspective):  # type: ignore[misc]
    """`albumentations.Perspective` whose boxes follow the pixels."""

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the matrix of the pixels and derive the matrix of the boxes from it."""
        sampled_params = super().get_params_dependent_on_data(params, data)
        scale = np.eye(3)
        if self.keep_size:
            height, width = params["shape"][:2]
            scale = np.diag(
                [width / sampled_params["max_width"], height / sampled_params["max_height"], 1.0]
            )
        # Albumentations scales boxes after applying this matrix, whereas the matrix of the pixels
        # includes the scale.
        edges = np.linalg.inv(scale) @ _between_edges(scale @ sampled_params["matrix"])
        return {**sampled_params, "matrix_bbox": edges}


# --- boxes: enclose the pixels whose source lies inside the original box


def _around(masks: Iterable[Array], bboxes: Array) -> Array:
    """Return the rows of `bboxes` whose mask is not empty, with the bounding box of the mask."""
    moved = bboxes.copy()
    is_visible = np.zeros(len(bboxes), np.bool_)
    for i, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            low, high = (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)
            moved[i, :4] = np.array((*low, *high)) / _sides(mask.shape)
            is_visible[i] = True
    return moved[is_visible]


def _sides(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return (width, height, width, height) of an image with this shape."""
    return np.array([shape[1], shape[0], shape[1], shape[0]], np.float64)


class _DistortedBoxes:
    """Mixin for distortions: a new box encloses the pixels sampled from inside the old box.

    Albumentations rasterizes boxes as masks that are one pixel too large, and shifts a box at the
    right or bottom border inward by one pixel.
    """

    def apply_to_bboxes(self, bboxes: Array, map_x: Array, map_y: Array, **params: Any) -> Array:
        """Move boxes with the pixels and remove boxes that leave the image.

        Args:
            bboxes: `(N, 4 + k)` xyxy as fractions of the image, and k other columns.
            map_x: `(h, w)` column of the source of each pixel; the first pixel center is 0.
            map_y: `(h, w)` row of the source of each pixel; the first pixel center is 0.
            **params: Other parameters of the transform, of which `shape` is used.
        """
        sides = _sides(params["shape"])
        x, y = map_x + 0.5, map_y + 0.5
        insides = (
            (x >= left) & (x < right) & (y >= top) & (y < bottom)
            for left, top, right, bottom in bboxes[:, :4] * sides
        )
        return _around(insides, bboxes)


class ElasticTransform(_DistortedBoxes, albumentations.ElasticTransform):  # type: ignore[misc]
    """`albumentations.ElasticTransform` whose boxes follow the pixels."""


class GridDistortion(_DistortedBoxes, albumentations.GridDistortion):  # type: ignore[misc]
    """`albumentations.GridDistortion` whose boxes follow the pixels."""


class OpticalDistortion(_DistortedBoxes, albumentations.OpticalDistortion):  # type: ignore[misc]
    """`albumentations.OpticalDistortion` whose boxes follow the pixels."""


class ThinPlateSpline(_DistortedBoxes, albumentations.ThinPlateSpline):  # type: ignore[misc]
    """`albumentations.ThinPlateSpline` whose boxes follow the pixels."""


# --- boxes: rounded to whole pixels, because albumentations truncates them


class _RoundedBoxes:
    """Mixin that rounds boxes to whole pixels before albumentations truncates them.

    Truncated edges are half a pixel too far to the left and top on average.
    """

    def apply_to_bboxes(self, bboxes: Array, **params: Any) -> Array:
        """Move boxes with edges at the nearest whole pixels, at least one pixel apart."""
        rounded = bboxes.copy()
        edges = _whole_edges(bboxes, params["shape"])
        rounded[:, :4] = (edges + _TRUNCATION_MARGIN) / _sides(params["shape"])
        return np.asarray(super().apply_to_bboxes(rounded, **params))  # type: ignore[misc]


def _whole_edges(bboxes: Array, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return `(N, 4)` xyxy, the nearest whole pixels to boxes given as fractions of the image."""
    edges = np.floor(bboxes[:, :4] * _sides(shape) + 0.5)
    low = np.clip(edges[:, :2], 0, _sides(shape)[:2] - 1)
    return np.hstack((low, np.clip(edges[:, 2:], low + 1, _sides(shape)[:2])))


class CoarseDropout(_RoundedBoxes, albumentations.CoarseDropout):  # type: ignore[misc]
    """`albumentations.CoarseDropout` with rounded boxes."""


class ConstrainedCoarseDropout(_RoundedBoxes, albumentations.ConstrainedCoarseDropout):  # type: ignore[misc]
    """`albumentations.ConstrainedCoarseDropout` with rounded boxes."""


class Erasing(_RoundedBoxes, albumentations.Erasing):  # type: ignore[misc]
    """`albumentations.Erasing` with rounded boxes."""


class GridDropout(_RoundedBoxes, albumentations.GridDropout):  # type: ignore[misc]
    """`albumentations.GridDropout` with rounded boxes."""


class XYMasking(_RoundedBoxes, albumentations.XYMasking):  # type: ignore[misc]
    """`albumentations.XYMasking` with rounded boxes."""


class MaskDropout(_RoundedBoxes, albumentations.MaskDropout):  # type: ignore[misc]
    """`albumentations.MaskDropout` with rounded boxes."""


class PixelDropout(_RoundedBoxes, albumentations.PixelDropout):  # type: ignore[misc]
    """`albumentations.PixelDropout` with rounded boxes."""


class GridElasticDeform(_RoundedBoxes, albumentations.GridElasticDeform):  # type: ignore[misc]
    """`albumentations.GridElasticDeform` with rounded boxes."""


class RandomGridShuffle(_RoundedBoxes, albumentations.RandomGridShuffle):  # type: ignore[misc]
    """`albumentations.RandomGridShuffle` with rounded boxes."""


class Morphological(albumentations.Morphological):  # type: ignore[misc]
    """`albumentations.Morphological` whose boxes are processed independently.

    Albumentations applies the kernel across the stack of boxes, so that consecutive boxes grow into
    each other.
    """

    def apply_to_bboxes(self, bboxes: Array, kernel: Array, **params: Any) -> Array:
        """Dilate or erode boxes like their pixels, and remove boxes that vanish."""
        shape = params["shape"][:2]

        def transform_box(edges: NDArray[np.int64]) -> Array:
            left, top, right, bottom = edges.tolist()
            mask = np.zeros(shape, np.uint8)
            mask[top:bottom, left:right] = 1
            return np.asarray(geometric.morphology(mask, kernel, self.operation))

        return _around(map(transform_box, _whole_edges(bboxes, shape).astype(np.int64)), bboxes)


# --- pixels


class Downscale(albumentations.Downscale):  # type: ignore[misc]
    """`albumentations.Downscale` that does not shift the image relative to its annotations."""

    def apply(self, img: Array, scale: float, **_: Any) -> Array:
        """Shrink an image and enlarge it to its original size.

        By default albumentations takes the top left of the pixels that are merged, and drops
        partial pixels at the right and bottom border. Here the mean is taken, since with an even
        number of pixels no single one is in the middle.
        """
        nearest = (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT)
        size = (img.shape[0], img.shape[1])
        small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        shrink, enlarge = (self.interpolation_pair[way] for way in ("downscale", "upscale"))
        img = geometric.resize(img, small, cv2.INTER_AREA if shrink in nearest else shrink)
        if enlarge in nearest:
            return resize_labels(img, size)
        return np.asarray(geometric.resize(img, size, enlarge))


ALIGNED: dict[str, type[albumentations.BasicTransform]] = {
    transform.__name__: transform
    for transform in (
        *(Resize, RandomScale, LongestMaxSize, SmallestMaxSize, CropAndPad),
        *(RandomResizedCrop, RandomSizedCrop, RandomSizedBBoxSafeCrop),
        *(Affine, SafeRotate, Perspective),
        *(ElasticTransform, GridDistortion, OpticalDistortion, ThinPlateSpline),
        *(CoarseDropout, ConstrainedCoarseDropout, Erasing, GridDropout, XYMasking, MaskDropout),
        *(PixelDropout, GridElasticDeform, Morphological, RandomGridShuffle, Downscale),
    )
}
"""Transforms that replace those of albumentations, by name."""
