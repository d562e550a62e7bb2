import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from data_tools.converters.dicom.frames import DicomFile, DicomFrame
from data_tools.converters.dicom.options import DicomOptions, is_dicom
from resnet_tasks.errors import DataError

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CR = FILES / "dicomdirtests" / "77654033" / "CR1" / "6154"
RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300


def frames(path: Path, **reading: Any) -> list[DicomFrame]:
    return list(DicomFile(path, DicomOptions(**reading)).iterate_frames())


def only(path: Path, **reading: Any) -> DicomFrame:
    (frame,) = frames(path, **reading)
    return frame


def stored(path: Path) -> tuple[pydicom.Dataset, np.ndarray]:
    data = pydicom.dcmread(path)
    return data, data.pixel_array


def item(**elements: Any) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def write(path: Path, pixels: np.ndarray = RAMP, **elements: Any) -> Path:
    """A plain DICOM file of 12 stored bits in 16; `elements` replace what it says."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.PatientID, data.PatientName, data.Modality = "id-7", "Doe^Jane", "CT"
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = pixels.dtype.itemsize * 8, 12, 11
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.save_as(path, enforce_file_format=True)
    return path


def lut(values: list[int], bits: int, first: int = 0, **more: Any) -> list[pydicom.Dataset]:
    made = item(
        LUTDescriptor=[len(values), first, bits],
        LUTData=np.array(values, dtype="<u2").tobytes(),
        **more,
    )
    return [made]


def test_ct_is_in_hounsfield_units_like_pydicom_has_it() -> None:
    data, array = stored(FILES / "CT_small.dcm")
    frame = only(FILES / "CT_small.dcm")
    assert frame.pixels.dtype == np.int16
    expected = apply_modality_lut(array, data)
    np.testing.assert_array_equal(frame.pixels, expected)
    assert expected.min() == 128 - 1024
    assert frame.spacing == (0.661468, 0.661468)
    assert frame.attributes == {"modality": "CT"}
    assert (frame.index, frame.is_color) == (None, False)
    np.testing.assert_array_equal(only(FILES / "CT_small.dcm", values="stored").pixels, array)


def test_monochrome1_is_inverted_over_its_gray_scale() -> None:
    data, array = stored(CR)
    assert data.PhotometricInterpretation == "MONOCHROME1"
    raw = only(CR, values="stored")
    assert raw.pixels.dtype == np.uint16
    np.testing.assert_array_equal(raw.pixels, 4095 - array)
    frame = only(CR)
    slope, intercept = float(data.RescaleSlope), float(data.RescaleIntercept)
    low, high = intercept, 4095 * slope + intercept
    assert frame.pixels.dtype == np.float32
    expected = (low + high) - apply_modality_lut(array, data)
    np.testing.assert_allclose(frame.pixels, expected, rtol=1e-6)
    voi = only(CR, values="voi").pixels
    windowed = apply_voi_lut(apply_modality_lut(array, data), data)
    expected = np.rint(65535 * (1 - (windowed - low) / (high - low)))
    np.testing.assert_array_equal(voi, expected)
    assert voi.dtype == np.uint16


@pytest.mark.parametrize("name", ["MR_small", "examples_overlay", "693_J2KI"])
def test_windows_are_those_of_pydicom(name: str) -> None:
    path = FILES / f"{name}.dcm"
    data, array = stored(path)
    bits, signed = data.BitsStored, data.PixelRepresentation
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    low, high = apply_modality_lut(ends.astype(np.float64), data)
    windowed = apply_voi_lut(apply_modality_lut(array, data), data)
    made = only(path, values="voi").pixels
    np.testing.assert_array_equal(made, np.rint(65535 * (windowed - low) / (high - low)))
    assert len(np.unique(made)) >= 100


def test_a_window_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "a", RescaleSlope=2, RescaleIntercept=-1000)
    made = only(path, values=(0, 2000)).pixels
    # 600 v - 1000 runs through -1000, -400, 200, 800, 1400 -> shares 0, .3, .6, .9, 1, 1 ...
    np.testing.assert_array_equal(made.ravel()[:6], [0, 19660, 39321, 58982, 65535, 65535])
    dark = write(tmp_path / "b", PhotometricInterpretation="MONOCHROME1", RescaleSlope=2,
                 RescaleIntercept=-1000)  # fmt: skip
    inverted = only(dark, values=(0, 2000)).pixels.astype(int)
    np.testing.assert_allclose(inverted, 65535 - made.astype(int), atol=1)
    with pytest.raises(DataError, match="level and width must be numbers, with width above 0"):
        DicomOptions(values=(40, 0))


def test_look_up_tables(tmp_path: Path) -> None:
    levels = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    table = lut([10, 20, 40, 4000], 16, ModalityLUTType="HU")
    path = write(tmp_path / "a", levels, ModalityLUTSequence=table)
    np.testing.assert_array_equal(only(path).pixels, [[10, 20, 40, 4000]])
    np.testing.assert_array_equal(only(path, values="stored").pixels, levels)
    path = write(tmp_path / "b", levels, VOILUTSequence=lut([0, 255, 0, 51], 8))
    np.testing.assert_array_equal(only(path, values="voi").pixels, [[0, 65535, 0, 13107]])
    path = write(tmp_path / "c", levels)
    with pytest.raises(DataError, match=r"c states no window and no VOI LUT; choose values=mod"):
        only(path, values="voi")


@pytest.mark.parametrize(
    ("name", "like"),
    [
        *(("SC_rgb_small_odd", None), ("SC_rgb_rle_16bit", None), ("examples_rgb_color", None)),
        *(("SC_ybr_full_422_uncompressed", "SC_rgb_dcmtk_+eb+cr"), ("examples_jpeg2k", None)),
    ],
)
def test_colors_are_rgb(name: str, like: str | None) -> None:
    frame = only(FILES / f"{name}.dcm", values="voi")  # colors have no window
    assert frame.is_color
    assert frame.pixels.shape[2] == 3
    if like is None:
        np.testing.assert_array_equal(frame.pixels, stored(FILES / f"{name}.dcm")[1])
    else:
        other = only(FILES / f"{like}.dcm").pixels.astype(int)
        # JPEG's loss, and chroma of half the width at the edges between the stripes
        assert np.median(np.abs(frame.pixels.astype(int) - other)) <= 1


def test_palettes_become_their_colors() -> None:
    data, array = stored(FILES / "examples_palette.dcm")
    frame = only(FILES / "examples_palette.dcm")
    assert frame.pixels.shape == (*array.shape, 3)
    np.testing.assert_array_equal(frame.pixels, apply_color_lut(array, data))


def test_every_frame_is_a_image() -> None:
    _, array = stored(FILES / "SC_rgb_rle_16bit_2frame.dcm")
    made = frames(FILES / "SC_rgb_rle_16bit_2frame.dcm")
    assert [each.index for each in made] == [0, 1]
    assert made[1].attributes["frame"] == 1
    np.testing.assert_array_equal(np.stack([each.pixels for each in made]), array)


@pytest.mark.parametrize(
    "name", ["J2K_pixelrep_mismatch", "MR_small_RLE", "MR_small_bigendian", "image_dfl", "JPEG2000"]
)
def test_transfer_syntaxes(name: str) -> None:
    _, array = stored(FILES / f"{name}.dcm")
    made = only(FILES / f"{name}.dcm", values="stored").pixels
    assert made.dtype.byteorder in "=|"
    np.testing.assert_array_equal(made, array)


def test_functional_groups_hold_for_their_frame(tmp_path: Path) -> None:
    def group(slope: float, spacing: list[float] | None) -> pydicom.Dataset:
        made = item(
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=0)],
            FrameAnatomySequence=[item(FrameLaterality="L" if slope == 1 else "R")],
        )
        if spacing:
            made.PixelMeasuresSequence = [item(PixelSpacing=spacing)]
        return made

    path = write(
        tmp_path / "a",
        np.stack([RAMP, RAMP]),
        SharedFunctionalGroupsSequence=[item(PixelMeasuresSequence=[item(PixelSpacing=[2, 3])])],
        PerFrameFunctionalGroupsSequence=[group(1, None), group(0.5, [4, 5])],
    )
    first, second = frames(path)
    np.testing.assert_array_equal(first.pixels, RAMP)
    np.testing.assert_array_equal(second.pixels, RAMP / 2)
    assert (first.spacing, second.spacing) == ((2, 3), (4, 5))
    assert [each.attributes["laterality"] for each in (first, second)] == ["L", "R"]


def test_bits_that_mean_nothing_are_cut_off(tmp_path: Path) -> None:
    low = write(tmp_path / "a", RAMP | 0xF000)
    np.testing.assert_array_equal(only(low).pixels, RAMP)
    high = write(tmp_path / "b", (RAMP << 4) | 0xF, HighBit=15)
    np.testing.assert_array_equal(only(high).pixels, RAMP)
    signed = (RAMP.astype(np.int16) // 2 - 1000) << 4
    made = only(write(tmp_path / "c", signed, HighBit=15)).pixels
    np.testing.assert_array_equal(made, RAMP.astype(int) // 2 - 1000)
    with pytest.raises(DataError, match="BitsAllocated, BitsStored and HighBit contradict each"):
        only(write(tmp_path / "d", HighBit=16))


def test_types_follow_the_gray_scale_and_not_the_image(tmp_path: Path) -> None:
    def kind(**elements: Any) -> np.dtype:
        return only(write(tmp_path / "a", **elements)).pixels.dtype

    assert kind() == np.uint16
    assert kind(RescaleSlope=1, RescaleIntercept=-1024) == np.int16
    assert kind(RescaleSlope=1, RescaleIntercept=0) == np.uint16
    assert kind(RescaleSlope=0.5, RescaleIntercept=0.25) == np.float32
    assert kind(RescaleSlope=1000, RescaleIntercept=0) == np.uint32
    assert kind(pixels=RAMP.astype(np.uint8) % 200, BitsStored=8, HighBit=7) == np.uint8
    # 16 stored bits and an intercept: what is there fits 16 bits, signed like the other slices.
    wide = {"BitsStored": 16, "HighBit": 15, "RescaleSlope": 1}
    assert kind(pixels=RAMP.astype(np.int16), RescaleIntercept=-1024, **wide) == np.int16
    assert kind(pixels=RAMP.astype(np.int16), RescaleIntercept=-9, **wide) == np.int16
    far = {"pixels": RAMP.astype(np.int16) + np.int16(-32768), "RescaleIntercept": -1024}
    assert kind(**far, **wide) == np.int32


def test_shrinking_moves_the_spacing(tmp_path: Path) -> None:
    pixels = np.kron(np.array([[100, 200]], dtype=np.uint16), np.ones((4, 4), dtype=np.uint16))
    path = write(tmp_path / "a", pixels, PixelSpacing=[0.5, 0.25], ViewPosition="PA")
    frame = only(path, longest_side=2)
    np.testing.assert_array_equal(frame.pixels, [[100, 200]])
    assert frame.scale == (0.25, 0.25)
    assert frame.spacing == (2.0, 1.0)
    assert frame.attributes == {"modality": "CT", "view": "PA"}
    assert only(path, longest_side=100).scale == (1, 1)
    with pytest.raises(DataError, match="longest_side is 0"):
        DicomOptions(longest_side=0)


def test_spacing_is_looked_for_and_checked(tmp_path: Path) -> None:
    frame = only(write(tmp_path / "a", ImagerPixelSpacing=[0.14, 0.14]))
    assert frame.spacing == (0.14, 0.14)
    assert frame.attributes["spacing_from"] == "ImagerPixelSpacing"
    assert only(write(tmp_path / "a")).spacing is None
    with pytest.raises(DataError, match="the PixelSpacing must be two numbers"):
        only(write(tmp_path / "a", PixelSpacing=[0, 1]))


def test_groups_are_salted_hashes(tmp_path: Path) -> None:
    path = write(tmp_path / "a", StudyInstanceUID="1.2.9")

    def group(**reading: Any) -> str | None:
        return DicomFile(path, DicomOptions(**reading)).group

    plain = group()
    assert plain is not None
    assert len(plain) == 16
    assert "id-7" not in plain
    assert len({plain, group(salt="x"), group(salt="y"), group(group="study")}) == 4
    assert group(salt="x") == group(salt="x")
    assert group(group="none") is None
    study = group(group="study")
    path = write(tmp_path / "a", StudyInstanceUID="1.2.9", PatientID="")
    assert group() == study  # the next best thing
    path = write(tmp_path / "a", PatientID="")
    assert group() is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("SC_rgb_jpeg_gdcm", r"Selection Value 1\]\); `pip install python-gdcm` lets pydicom"),
        ("JPEG-lossy", r"JPEG Extended .* 12-bit precision\); .*`pip install python-gdcm`"),
        ("MR_truncated", r"cannot be read: The number of bytes of pixel data is less"),
        ("badVR", "cannot be read: the values of these elements are invalid: Numb"),
    ],
)
def test_what_cannot_be_decoded_is_named_with_the_remedy(name: str, part: str) -> None:
    path = FILES / f"{name}.dcm"
    with pytest.raises(DataError, match=part) as raised:
        frames(path)
    assert str(path) in str(raised.value)


def test_headers_without_sense(tmp_path: Path) -> None:
    for part, elements in (
        (
            "an unknown photometric interpretation; supported are MONO",
            {"PhotometricInterpretation": "CMYK"},
        ),
        ("the rescale slope is 0", {"RescaleSlope": 0, "RescaleIntercept": 1}),
        ("cannot be read: ", {"NumberOfFrames": 99}),
        ("cannot be read: ", {"Rows": 0}),
    ):
        with pytest.raises(DataError, match=part):
            frames(write(tmp_path / "a", **elements))
    path = write(tmp_path / "a")
    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(path)
    with pytest.raises(DataError, match="has the header of an image but no pixels"):
        frames(path)


def test_what_is_no_image_says_so() -> None:
    def why(name: str) -> str | None:
        return DicomFile(FILES / name, DicomOptions()).explain_missing_image()

    assert why("rtplan.dcm") == "it contains no image (RT Plan Storage)"
    assert why("liver_1frame.dcm") == "it holds labels (SEG), not an image"
    assert why("CT_small.dcm") is None
    assert is_dicom(FILES / "CT_small.dcm")
    assert not is_dicom(FILES / "README.txt")
    assert not is_dicom(FILES)


def test_without_pydicom_formats_are_listed_and_files_ask_for_it() -> None:
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from pathlib import Path\n"
        "from data_tools.formats import FORMATS\n"
        "from data_tools.converters.dicom.convert import open_dicom\n"
        "from data_tools.converters.dicom.options import DicomOptions\n"
        "assert 'salt' in FORMATS.get('dicom').options\n"
        "try: open_dicom(Path('x'), DicomOptions())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DataError")
    assert "pip install 'resnet-tasks[medical]'" in done.stdout


def test_secondary_captures_are_images(tmp_path: Path) -> None:
    path = write(tmp_path / "a", SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")
    assert DicomFile(path, DicomOptions()).explain_missing_image() is None
