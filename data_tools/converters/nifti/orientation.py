"""Orientation of NIfTI volumes: what their headers state, and the axes of anatomical planes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from resnet_tasks.errors import DataError

Array = NDArray[Any]
Plane = Literal["axial", "coronal", "sagittal"]

AXES: dict[Plane, tuple[str, str, str]] = {
    "axial": ("S", "P", "L"),
    "coronal": ("A", "I", "L"),
    "sagittal": ("L", "I", "P"),
}
"""Anatomical directions in which slices, rows and columns increase."""
MIN_COSINE = 0.5
"""Minimum cosine of the angle between an axis by the qform and by the sform of the same file."""


def build_affine(zooms: Sequence[float], orientation: str) -> NDArray[np.float64]:
    """Return the affine of voxel sizes whose axes increase in the directions of `orientation`."""
    directions = orientations.inv_ornt_aff(orientations.axcodes2ornt(tuple(orientation)), (1, 1, 1))
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.inv(directions[:3, :3]) * (*zooms, *(1.0,) * (3 - len(zooms)))
    return affine


def require_orientation_code(orientation: str | None) -> None:
    """Check that an orientation consists of one letter for each anatomical axis.

    Raises:
        DataError: If it does not.
    """
    axes = ("LR", "AP", "IS")
    if orientation is not None and sorted(
        next((i for i, pair in enumerate(axes) if letter in pair), -1) for letter in orientation
    ) != [0, 1, 2]:
        raise DataError(
            f"orientation is {orientation!r}; it must have three letters, one of L and R, one of A "
            "and P, one of I and S: the directions in which the stored axes increase, such as LAS"
        )


def find_orientation_problem(header: nibabel.Nifti1Header) -> str:
    """Return why a header does not state one orientation, and what to choose; empty if it does."""
    codes = (int(header["qform_code"]), int(header["sform_code"]))
    if codes == (0, 0):
        return (
            "states no orientation (qform_code and sform_code are 0), so that left and right are "
            "unknown. Choose orientation=LAS if the first axis increases to the patient's left (as "
            "SPM and FSL assume), or orientation=RAS if it increases to the right"
        )
    if 0 in codes:
        return ""
    qform, sform = header.get_qform(), header.get_sform()
    lengths = np.linalg.norm(qform[:3, :3], axis=0) * np.linalg.norm(sform[:3, :3], axis=0)
    cosines = (qform[:3, :3] * sform[:3, :3]).sum(axis=0) / np.where(lengths > 0, lengths, np.nan)
    # Not the names of the axes alone: two oblique affines that nearly agree may have others.
    if not (cosines < MIN_COSINE).any():
        return ""
    names = ["".join(map(str, orientations.aff2axcodes(affine))) for affine in (qform, sform)]
    return (
        f"states two orientations: its axes increase to {names[0]} by its qform, but to {names[1]} "
        f"by its sform. Choose orientation={names[0]} or orientation={names[1]}"
    )


def require_orientation(path: Path, problem: str) -> None:
    """Check that the orientation of a volume is known.

    Args:
        path: Path of the volume.
        problem: Reason why it is not, and what to choose; empty if it is.

    Raises:
        DataError: If it is not known.
    """
    if problem:
        raise DataError(
            f"{path} {problem}; the option applies to all files without a unique orientation. If "
            "only the labels have none and their voxels match those of the volume, choose "
            "check_affine=false"
        )


def compute_reorientation(affine: NDArray[np.float64], axes: Sequence[str]) -> Array:
    """Return the (3, 2) new position and direction of every stored axis."""
    target_orientation = orientations.axcodes2ornt(axes)
    return np.asarray(
        orientations.ornt_transform(orientations.io_orientation(affine), target_orientation)
    )


def reorient(values: Array, reorientation: Array) -> Array:
    """Return a view of `(x, y, z, ...)` as `(slices, rows, columns, ...)`."""
    return np.asarray(orientations.apply_orientation(values, reorientation))
