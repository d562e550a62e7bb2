"""Pixel size of a DICOM image: its spacing in millimeters, or the aspect ratio alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pydicom

from data_tools.converters.dicom.header_repairs import read_number, read_numbers
from resnet_tasks.errors import DataError

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Elements with the pixel spacing, in order of preference; the second is measured at the detector,
not in the patient."""
REGIONS = "SequenceOfUltrasoundRegions"
ASPECT = "PixelAspectRatio"
_CENTIMETERS = 3
"""Code of the physical unit of an ultrasound region."""


class PixelSize(NamedTuple):
    """Size and shape of a pixel.

    Attributes:
        spacing: (y, x) millimeters per pixel; None if it is not stated.
        source: Element that states the spacing; empty if there is none.
        aspect: Height / width of a pixel.
        problem: Fault of the aspect ratio, which is then taken as 1; None if there is none.
    """

    spacing: tuple[float, float] | None = None
    source: str = ""
    aspect: float = 1.0
    problem: str | None = None


def read_pixel_size(header: pydicom.Dataset, path: Path) -> PixelSize:
    """Read the size and shape of the pixels of a frame.

    Args:
        header: Elements of the frame.
        path: Path of the file, for error messages.

    Raises:
        DataError: If a spacing is not two numbers above 0.
        HeaderError: If a value is not a number.
    """
    for keyword in SPACINGS:
        if spacing := read_numbers(header, keyword):
            if not _are_sizes(spacing):
                raise DataError(
                    f"{path}: the {keyword} must be two numbers above 0 (rows, columns): fix or "
                    "remove it"
                )
            return _from_spacing((spacing[0], spacing[1]), keyword)
    if (region_spacing := _read_region_spacing(header)) is not None:
        return _from_spacing(region_spacing, REGIONS)
    if not (ratio := read_numbers(header, ASPECT)):
        return PixelSize()
    if not _are_sizes(ratio):
        return PixelSize(problem=f"{ASPECT} is not two numbers above 0 and was ignored")
    return PixelSize(aspect=ratio[0] / ratio[1])


def _from_spacing(spacing: tuple[float, float], source: str) -> PixelSize:
    return PixelSize(spacing, source, spacing[0] / spacing[1])


def _are_sizes(values: tuple[float, ...]) -> bool:
    return len(values) == 2 and all(0 < value < math.inf for value in values)


def _read_region_spacing(header: pydicom.Dataset) -> tuple[float, float] | None:
    """Return the spacing of the ultrasound regions in centimeters, if all of them agree."""
    spacings = set()
    for region in header.get(REGIONS, None) or ():
        units = [region.get(f"PhysicalUnits{axis}Direction", None) for axis in "YX"]
        if units != [_CENTIMETERS, _CENTIMETERS]:
            continue  # a spectrum or a curve over time
        deltas = [read_number(region, f"PhysicalDelta{axis}") for axis in "YX"]
        if None not in deltas:
            spacings.add(tuple(10 * abs(delta) for delta in deltas if delta is not None))
    (spacing,) = spacings if len(spacings) == 1 else [()]
    return (spacing[0], spacing[1]) if _are_sizes(spacing) else None
