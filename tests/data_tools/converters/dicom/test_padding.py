from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from data_tools.converters.dicom.convert import convert_dicom
from data_tools.converters.dicom.frames import DicomFile, DicomFrame
from data_tools.converters.dicom.options import DicomOptions
from tests.support.dicom_files import write_dicom

CT = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def read(path: Path, **options: Any) -> DicomFrame:
    (frame,) = DicomFile(path, DicomOptions(**options)).iterate_frames()
    return frame


def test_signed_and_unsigned_words_give_the_same_hounsfield_units(tmp_path: Path) -> None:
    signed = np.array([[-2000, 30], [1024, 2000]], dtype=np.int16)
    expected = np.array([[30 - 1024, 30 - 1024], [0, 976]])
    path = write_dicom(tmp_path / "s.dcm", signed, PixelPaddingValue=-2000, **CT)
    np.testing.assert_array_equal(read(path).pixels, expected)
    # The word 63536 is -2000 as a signed number.
    path = write_dicom(tmp_path / "u.dcm", signed.view(np.uint16), PixelPaddingValue=63536, **CT)
    frame = read(path)
    np.testing.assert_array_equal(frame.pixels, expected)
    assert frame.pixels.dtype == np.int16
    np.testing.assert_array_equal(
        read(path, padding="keep").pixels, [[63536 - 1024, -994], [0, 976]]
    )
    np.testing.assert_array_equal(read(path, values="stored").pixels, [[30, 30], [1024, 2000]])
    # A window from -160 to 240: only 0 lies inside, at 0.4 of 65535.
    np.testing.assert_array_equal(read(path, values=(40.0, 400.0)).pixels, [[0, 0], [26214, 65535]])


def test_padding_of_inverted_images_is_black(tmp_path: Path) -> None:
    pixels = np.array([[0, 300], [500, 4000]], dtype=np.uint16)
    elements = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    path = write_dicom(tmp_path / "a.dcm", pixels, PixelPaddingValue=0, **elements)
    # Inverted over 0..4095; the darkest other pixel has 4095 - 4000.
    np.testing.assert_array_equal(read(path).pixels, [[95, 3795], [3595, 95]])
    path = write_dicom(tmp_path / "b.dcm", pixels * 0, PixelPaddingValue=0, **elements)
    np.testing.assert_array_equal(read(path).pixels, [[0, 0], [0, 0]])


def test_words_beyond_the_stored_bits(tmp_path: Path) -> None:
    # The mask of 12 bits turns the padding 63536 into 2096, which is also an ordinary value.
    pixels = np.array([[63536, 2096], [100, 4095]], dtype=np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm", pixels, PixelPaddingValue=63536, BitsStored=12, HighBit=11, **CT
    )
    np.testing.assert_array_equal(read(path).pixels, [[-924, 1072], [-924, 3071]])


@pytest.mark.parametrize(("value", "limit"), [(0, 5), (5, 0)])
def test_ranges_include_both_ends(tmp_path: Path, value: int, limit: int) -> None:
    pixels = np.array([[0, 5], [6, 200]], dtype=np.uint8)
    path = write_dicom(
        tmp_path / "a.dcm", pixels, PixelPaddingValue=value, PixelPaddingRangeLimit=limit
    )
    np.testing.assert_array_equal(read(path).pixels, [[6, 6], [6, 200]])


def test_files_are_counted_and_a_value_that_no_pixel_holds_is_no_change(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = np.array([[0, 5], [6, 200]], dtype=np.uint8)
    for number in range(5):
        write_dicom(folder / f"{number}.dcm", pixels + number, PixelPaddingValue=number)
    write_dicom(folder / "none.dcm", pixels + 20, PixelPaddingValue=0)
    (summary,) = convert_dicom(folder, tmp_path / "out")
    (warning,) = summary.warnings
    assert warning == (
        "pixels with the padding value were given the darkest other value of their image: 5 files "
        "(0.dcm, 1.dcm, 2.dcm and 2 others)"
    )


def test_negative_slopes_turn_dark_and_bright(tmp_path: Path) -> None:
    pixels = np.array([[0, 10], [20, 100]], dtype=np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm", pixels, PixelPaddingValue=0, RescaleSlope=-1, RescaleIntercept=0
    )
    np.testing.assert_array_equal(read(path).pixels, [[-100, -10], [-20, -100]])
    np.testing.assert_array_equal(read(path, values="stored").pixels, [[10, 10], [20, 100]])


def test_padding_of_float_pixels(tmp_path: Path) -> None:
    pixels = np.array([[-1000.5, 0.25], [0.5, 1]], dtype=np.float32)
    path = write_dicom(tmp_path / "a.dcm", pixels)
    dataset = pydicom.dcmread(path)
    dataset.FloatPixelData = dataset.PixelData
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[keyword]
    dataset.FloatPixelPaddingValue = -1000.5
    dataset.save_as(path)
    frame = read(path)
    assert frame.pixels.dtype == np.float32
    np.testing.assert_array_equal(frame.pixels, [[0.25, 0.25], [0.5, 1]])


def test_padding_of_floats_may_be_nan(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", np.zeros((1, 3), np.uint16)))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    dataset.BitsAllocated, dataset.FloatPixelPaddingValue = 32, float("nan")
    dataset.FloatPixelData = np.float32([np.nan, 4, -0.5]).tobytes()
    dataset.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read(tmp_path / "a.dcm").pixels, np.float32([[-0.5, 4, -0.5]]))
