"""NIfTI volumes as slices: oriented to a plane, scaled as the header states, with labels checked.

The axes of a volume are permuted and flipped to the nearest anatomical axes (no resampling: an
oblique volume stays oblique). Slices are oriented as in radiology and in most DICOM series:

    axial      rows from front to back, columns from the patient's right to left; slices upwards
    coronal    rows from head to foot,  columns from the patient's right to left; slices forwards
    sagittal   rows from head to foot,  columns from front to back;               slices to the left
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from data_tools.converters.nifti.gzip_voxels import (
    is_gzip_name,
    read_gzip_voxels,
    require_gzip_name,
    require_near_voxels,
    verify_gzip,
)
from data_tools.converters.nifti.layouts import Case
from data_tools.converters.nifti.orientation import (
    AXES,
    Plane,
    build_affine,
    compute_reorientation,
    find_orientation_problem,
    reorient,
    require_orientation,
)
from data_tools.writing.value_types import (
    ValueRange,
    ValueType,
    choose_dataset_dtype,
    widen_dtype,
)
from resnet_tasks.errors import DataError, format_error
from resnet_tasks.number_formats import Count

Array = NDArray[Any]

MAX_CHANNELS = 64
"""Maximum number of channels, as for images. A longer fourth axis is a time axis, not channels."""
MILLIMETERS = {"meter": 1000.0, "micron": 0.001}
MAX_LABEL_ERROR = 1e-3
"""Maximum distance of a label from a whole number: rounding of floats, not interpolation."""
MAX_OFFSET = 0.5
"""Maximum distance between the corners of aligned volumes, as a fraction of a voxel."""
READER_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)
"""Exceptions that nibabel raises for damaged files."""


@dataclass(frozen=True)
class _StoredVolume:
    """Volume as stored in its file; the actual values are `values * slope + intercept`."""

    path: Path
    values: Array  # (x, y, z) or (x, y, z, channels)
    affine: NDArray[np.float64]
    slope: float
    intercept: float
    unit: float  # millimeters
    orientation_problem: str  # why the header states no unique orientation

    @property
    def is_scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)

    def apply_scale(self, values: Array) -> Array:
        return values * self.slope + self.intercept if self.is_scaled else values


class Volume:
    """Channels and labels of one case, slice by slice.

    Args:
        case: Files of the case.
        plane: Anatomical plane of the slices.
        check_affine: Whether to refuse channels and labels whose position in the patient differs
            from that of the first channel.
        orientation: Anatomical directions in which the stored axes increase, such as `LAS`, for
            files that state none; None to refuse such files.
        dtype: Type of the pixels, which all volumes of a dataset share; None: from the headers of
            this volume. Volumes with larger values get a wider type.

    Attributes:
        name: Name of the case.
        plane: Anatomical plane of the slices.
        num_slices: Number of slices in that plane.
        spacing: (y, x) millimeters per pixel of a slice.
        distance: Distance between slices in millimeters.
        repairs: Descriptions of the repaired faults -> files, as keys.

    Raises:
        DataError: If a file is missing or damaged, contains no numbers, or differs in size from the
            first channel.
    """

    def __init__(
        self,
        case: Case,
        plane: Plane,
        *,
        check_affine: bool = True,
        orientation: str | None = None,
        dtype: ValueType | None = None,
    ) -> None:
        self.name, self.plane = case.name, plane
        self.repairs: dict[str, dict[Path, None]] = {}
        channels = [_read_volume(path, orientation) for path in case.channels]
        labels = _read_volume(case.labels, orientation)
        if labels.values.ndim != 3:
            raise DataError(
                f"the label volume {case.labels} has the size {labels.values.shape}; labels have "
                "three axes and one value per voxel"
            )
        first = channels[0]
        for volume in (*channels, labels) if check_affine else (first,):
            require_orientation(volume.path, "" if orientation else volume.orientation_problem)
            if volume.orientation_problem:
                description = f"files without a unique orientation were read as {orientation}"
                self._add_repair(description, volume.path)
        for other_volume in (*channels[1:], labels):
            _require_aligned(first, other_volume, check_affine=check_affine)
        reorientation = compute_reorientation(first.affine, AXES[plane])
        sizes = voxel_sizes(first.affine) * first.unit
        self.distance, *spacing = (float(sizes[i]) for i in np.argsort(reorientation[:, 0]))
        self.spacing = (spacing[0], spacing[1])
        self._channels = [
            (channel, reorient(channel.values, reorientation)) for channel in channels
        ]
        self._labels = (labels, reorient(labels.values, reorientation))
        self.num_slices = self._labels[1].shape[0]
        self._type = dtype or choose_dataset_dtype(map(read_value_range, case.channels))

    def _add_repair(self, description: str, path: Path) -> None:
        self.repairs.setdefault(description, {})[path] = None

    def read_image(self, index: int, *, fill: float | None = None) -> Array:
        """Return the pixels of a slice, in the type of the dataset.

        Args:
            index: Index of the slice, from 0.
            fill: Replacement of values that are not finite; None to refuse them.

        Returns:
            (height, width), or (height, width, channels).

        Raises:
            DataError: If values are not finite and `fill` is None.
        """
        parts = []
        for channel, values in self._channels:
            part = channel.apply_scale(values[index])
            finite = np.isfinite(part)
            if not finite.all():
                if fill is None:
                    raise DataError(
                        f"{channel.path} has {Count(int((~finite).sum())):value} other than finite "
                        f"numbers in slice {index}; choose their replacement, for example fill=0"
                    )
                part = np.where(finite, part, fill)
            parts.append(part if part.ndim == 3 else part[:, :, None])
        stacked = np.concatenate(parts, axis=2)
        stacked = stacked.astype(
            widen_dtype(self._type, float(stacked.min()), float(stacked.max()))
        )
        return stacked[:, :, 0] if stacked.shape[2] == 1 else stacked

    def read_labels(self, index: int, ids: Mapping[int, int]) -> NDArray[np.int64]:
        """Return the (height, width) int64 category ids of a slice.

        Args:
            index: Index of the slice, from 0.
            ids: Value in the file -> category id.

        Raises:
            DataError: If a value is not an integer or not in `ids`.
        """
        label_volume, values = self._labels
        part = self._round_labels(label_volume.apply_scale(values[index]))
        known_values = np.array(sorted(ids))
        positions = np.clip(np.searchsorted(known_values, part), 0, len(known_values) - 1)
        is_unknown = known_values[positions] != part
        if is_unknown.any():
            unknown_values, counts = np.unique(part[is_unknown], return_counts=True)
            value_text = ", ".join(
                f"{v:g} ({Count(n):pixel})"
                for v, n in zip(unknown_values[:6], counts, strict=False)
            )
            raise DataError(
                f"the label volume {label_volume.path} has the unknown values {value_text} in "
                f"slice {index}; allowed: {', '.join(map(str, known_values))}; correct the volume, "
                "or name the values with classes"
            )
        return np.array([ids[int(value)] for value in known_values], dtype=np.int64)[positions]

    def _round_labels(self, part: Array) -> Array:
        """Round floats that differ from a whole number by no more than a rounding error."""
        if part.dtype.kind != "f":
            return part
        rounded = np.rint(part)
        is_near = (np.abs(part - rounded) <= MAX_LABEL_ERROR) & (part != rounded)
        if not is_near.any():
            return part
        description = (
            f"labels that differ from a whole number by at most {MAX_LABEL_ERROR:g} were rounded"
        )
        self._add_repair(description, self._labels[0].path)
        return np.where(is_near, rounded, part)


def _read_volume(path: Path, orientation: str | None) -> _StoredVolume:
    with _convert_errors(path):
        image = _load_image(path)
        proxy = image.dataobj
        values = _read_stored_values(image)
        affine = np.asarray(image.affine, dtype=np.float64)
        _require_voxel_sizes(image, path)
        problem = find_orientation_problem(image.header)
        if problem and orientation is not None:
            affine = build_affine(image.header.get_zooms()[:3], orientation)
        unit = MILLIMETERS.get(image.header.get_xyzt_units()[0], 1.0)
        slope, intercept = float(proxy.slope), float(proxy.inter)
    shape = values.shape
    values = values.reshape((*shape, *(1,) * (3 - len(shape))))
    while values.ndim > 3 and values.shape[3] == 1:  # vectors use a fifth axis: (x, y, z, 1, n)
        values = values[:, :, :, 0]
    if values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds {values.dtype} values; a volume has whole numbers or floats")
    channels = values.shape[3] if values.ndim == 4 else 1
    if values.ndim > 4 or channels > MAX_CHANNELS or 0 in shape or len(shape) < 2:
        raise DataError(
            f"{path} has the size {shape}; a volume has three axes, and up to {MAX_CHANNELS} "
            "channels along a fourth: split time points into separate volumes"
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(f"{path} has a singular affine ({affine[:3].tolist()}); fix the affine")
    return _StoredVolume(path, values, affine, slope, intercept, unit, problem)


def _require_voxel_sizes(image: nibabel.Nifti1Pair, path: Path) -> None:
    """Check that voxel sizes are stated by the sform, or else by `pixdim`.

    Raises:
        DataError: If a size is 0, which nibabel replaces by 1.
    """
    if int(image.header["sform_code"]):
        return
    # A single file contains header and image, a pair has a file for each.
    holder = image.file_map.get("header", image.file_map["image"])
    with holder.get_prepare_fileobj("rb") as stream:
        header = image.header_class.from_fileobj(stream, check=False)
    sizes = header["pixdim"][1 : 1 + min(3, len(image.shape))].tolist()
    if 0 in sizes:
        raise DataError(f"{path} states voxel sizes of 0 ({sizes} in pixdim); fix its header")


def _read_stored_values(image: nibabel.Nifti1Pair) -> Array:
    """Return the voxels of an opened volume as stored."""
    proxy = image.dataobj
    file = Path(image.file_map["image"].filename)
    # A volume is a single file, or a pair of .hdr and .img.
    for holder in image.file_map.values():
        if Path(holder.filename) != file and is_gzip_name(Path(holder.filename)):
            verify_gzip(Path(holder.filename))
    if not is_gzip_name(file):
        return np.asanyarray(proxy.get_unscaled())
    return read_gzip_voxels(file, proxy.shape, np.dtype(proxy.dtype), int(proxy.offset))


def _require_aligned(first: _StoredVolume, other: _StoredVolume, *, check_affine: bool) -> None:
    if first.values.shape[:3] != other.values.shape[:3]:
        raise DataError(
            f"{other.path} has the size {other.values.shape[:3]}, but {first.path} has "
            f"{first.values.shape[:3]}; both must agree: resample one of them"
        )
    # The distance between two affine maps is largest at a corner of the volume.
    corners = np.array(
        [(*corner, 1) for corner in product(*((0, n - 1) for n in first.values.shape[:3]))]
    ).T
    offset = float(
        np.linalg.norm(
            (first.affine * first.unit - other.affine * other.unit)[:3] @ corners, axis=0
        ).max()
    )
    if check_affine and offset > MAX_OFFSET * voxel_sizes(first.affine).min() * first.unit:
        raise DataError(
            f"{other.path} lies elsewhere in the patient than {first.path} (corners up to "
            f"{offset:.3g} mm apart by their affines); resample it, or set check_affine=false "
            "if the affine is wrong and the voxels agree"
        )


def read_value_range(path: Path) -> ValueRange:
    """Return the range of values that the header of a volume allows.

    Raises:
        DataError: If the file is missing or its header is damaged.
    """
    with _convert_errors(path):
        proxy = _load_image(path).dataobj
        kind, slope, intercept = np.dtype(proxy.dtype), float(proxy.slope), float(proxy.inter)
    if kind.kind not in "iu" or not (slope.is_integer() and intercept.is_integer()):
        return ValueRange(-math.inf, math.inf, is_whole=False)
    ends = [slope * end + intercept for end in (np.iinfo(kind).min, np.iinfo(kind).max)]
    return ValueRange(min(ends), max(ends), is_whole=True)


def _load_image(path: Path) -> nibabel.Nifti1Pair:
    """Open a volume without reading its voxels."""
    require_gzip_name(path)
    if is_gzip_name(path) and path.is_file():
        require_near_voxels(path)
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Pair):  # base class of NIfTI-2 and single files too
        if is_gzip_name(path):
            verify_gzip(path)  # a flipped bit may make the file look like another format
        name = "Analyze" if isinstance(image, nibabel.AnalyzeImage) else type(image).__name__
        raise DataError(f"{path} is {name}, not NIfTI, which states left and right; convert it")
    return image


@contextmanager
def _mute_nibabel() -> Iterator[None]:
    """Hide the lines that nibabel prints about headers it repairs (an unknown code becomes 0)."""
    was_disabled, nibabel_logger.disabled = nibabel_logger.disabled, True
    try:
        yield
    finally:
        nibabel_logger.disabled = was_disabled


@contextmanager
def _convert_errors(path: Path) -> Iterator[None]:
    """Convert exceptions of the readers to a `DataError` that names the file."""
    try:
        with warnings.catch_warnings(), _mute_nibabel():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except READER_ERRORS as error:
        if is_gzip_name(path) and path.is_file():
            verify_gzip(path)  # if a bit of the header flipped, the checksum error is clearer
        raise DataError(f"the volume {path} cannot be read: {format_error(error)}") from None
