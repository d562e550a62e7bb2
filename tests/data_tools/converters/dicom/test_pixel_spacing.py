"""Spacing and aspect ratio of pixels, and what a conversion reports about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from data_tools.converters.dicom.convert import convert_dicom
from data_tools.converters.dicom.pixel_spacing import read_pixel_size
from resnet_tasks.errors import DataError
from tests.support.dicom_files import write_dicom

PIXELS = np.arange(48, dtype=np.uint16).reshape(6, 8)


def header(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def region(delta_x: float, delta_y: float, unit: int = 3) -> Dataset:
    return header(
        PhysicalUnitsXDirection=unit,
        PhysicalUnitsYDirection=unit,
        PhysicalDeltaX=delta_x,
        PhysicalDeltaY=delta_y,
    )


@pytest.mark.parametrize(
    ("elements", "spacing", "source", "aspect"),
    [
        ({}, None, "", 1.0),
        # Rows first: the vertical distance of pixels.
        ({"PixelSpacing": [0.6, 0.5]}, (0.6, 0.5), "PixelSpacing", 1.2),
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "ImagerPixelSpacing", 1.0),
        ({"PixelAspectRatio": [5, 4]}, None, "", 1.25),
        # A spacing states more than a ratio.
        ({"PixelSpacing": [1, 1], "PixelAspectRatio": [5, 4]}, (1.0, 1.0), "PixelSpacing", 1.0),
        # Centimeters; a delta is negative where an axis points up.
        (
            {"SequenceOfUltrasoundRegions": [region(0.02, -0.03), region(0.02, 0.03)]},
            (0.3, 0.2),
            "SequenceOfUltrasoundRegions",
            1.5,
        ),
        # A spectrum (seconds) has no spacing, and regions of different scales have no common one.
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.03, unit=4)]}, None, "", 1.0),
        (
            {"SequenceOfUltrasoundRegions": [region(0.02, 0.02), region(0.01, 0.01)]},
            None,
            "",
            1.0,
        ),
    ],
)
def test_pixel_sizes(
    elements: dict[str, Any], spacing: tuple[float, float] | None, source: str, aspect: float
) -> None:
    size = read_pixel_size(header(**elements), Path("a.dcm"))
    assert size.spacing == (None if spacing is None else pytest.approx(spacing))
    assert (size.source, size.problem) == (source, None)
    assert size.aspect == pytest.approx(aspect)


def test_invalid_sizes() -> None:
    with pytest.raises(DataError, match=r"a\.dcm: the PixelSpacing must be two numbers above 0"):
        read_pixel_size(header(PixelSpacing=[0, 0.5]), Path("a.dcm"))
    size = read_pixel_size(header(PixelAspectRatio=[0, 1]), Path("a.dcm"))
    assert size == (None, "", 1.0, "PixelAspectRatio is not two numbers above 0 and was ignored")


def test_the_conversion_counts_images_whose_pixels_are_not_square(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, elements in {
        "square": {"PixelSpacing": [0.5, 0.502]},
        "spacing": {"PixelSpacing": [0.6, 0.5]},
        "ratio": {"PixelAspectRatio": [4, 5]},
        "region": {"SequenceOfUltrasoundRegions": [region(0.02, 0.03)]},
    }.items():
        uid = pydicom.uid.generate_uid()
        write_dicom(source / name, PIXELS, SOPInstanceUID=uid, **elements)
    (summary,) = convert_dicom(source, tmp_path)
    (warning,) = summary.warnings
    assert warning == (
        "3 images have pixels that are not square (height / width 0.8 to 1.5); they are kept as "
        "stored, so that shapes are stretched; resample the images before the conversion if "
        "shapes matter"
    )
    records = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))["images"]
    images = {Path(record["file_name"]).stem: record for record in records}
    assert images["region"]["spacing"] == pytest.approx([0.3, 0.2])
    assert images["region"]["attributes"]["spacing_from"] == "SequenceOfUltrasoundRegions"
    assert images["ratio"]["attributes"]["pixel_aspect"] == pytest.approx(0.8)
    assert "spacing" not in images["ratio"]
