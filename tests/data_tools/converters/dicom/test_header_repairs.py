import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from data_tools.converters.dicom.convert import convert_dicom
from data_tools.converters.dicom.frames import DicomFile, DicomFrame
from data_tools.converters.dicom.header_repairs import repair_number_of_frames
from data_tools.converters.dicom.options import DicomOptions, is_dicom
from resnet_tasks.errors import DataError
from tests.support.dicom_files import write_dicom

PIXELS = np.array([[0, 10], [20, 1000]], dtype=np.uint16)
FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def read(path: Path) -> tuple[list[DicomFrame], list[str]]:
    dicom = DicomFile(path, DicomOptions())
    return list(dicom.iterate_frames()), list(dicom.repairs)


@pytest.mark.parametrize(
    ("elements", "expected", "repaired"),
    [
        ({"RescaleIntercept": -1024}, [[-1024, -1014], [-1004, -24]], "RescaleSlope"),
        (
            {"RescaleIntercept": -1024, "RescaleSlope": None},
            [[-1024, -1014], [-1004, -24]],
            "RescaleSlope",
        ),
        ({"RescaleSlope": 2}, [[0, 20], [40, 2000]], "RescaleIntercept"),
        ({"RescaleSlope": 2, "RescaleIntercept": None}, [[0, 20], [40, 2000]], "RescaleIntercept"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, [[0, 10], [20, 1000]], None),
    ],
)
def test_half_a_rescale(
    tmp_path: Path, elements: dict[str, Any], expected: list[list[int]], repaired: str | None
) -> None:
    (frame,), repairs = read(write_dicom(tmp_path / "a.dcm", PIXELS, BitsStored=12, HighBit=11,
                                         **elements))  # fmt: skip
    np.testing.assert_array_equal(frame.pixels, expected)
    assert [repair.split()[0] for repair in repairs] == ([repaired] if repaired else [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "RescaleSlope must be a number and is none: fix or remove it"),
        ("inf", "RescaleSlope must be a number and is none"),
        ("one", "RescaleSlope must be a number and is none"),
        ("1\\2", "RescaleSlope has 2 different values, but must have one; fix the file"),
        ("0", "the rescale slope is 0, .*; fix the file, or choose values=stored"),
    ],
)
def test_slopes_without_one_finite_number_are_rejected(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, RescaleIntercept=0)
    dataset = pydicom.dcmread(path)
    dataset.add(pydicom.DataElement("RescaleSlope", "LO", text))  # `DS` would reject the text
    dataset.save_as(path)
    with pytest.raises(DataError, match=message):
        read(path)


def test_equal_slopes_are_one_slope(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, RescaleIntercept=-4, RescaleSlope=[2, 2])
    (frame,), _ = read(path)
    np.testing.assert_array_equal(frame.pixels, [[-4, 16], [36, 1996]])


def test_decimal_commas_of_windows_are_read(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, WindowCenter=510.5, WindowWidth=981)
    (expected,) = DicomFile(path, DicomOptions("voi")).iterate_frames()
    assert expected.pixels.tolist() == [[0, 0], [0, 65535]]
    path.write_bytes(path.read_bytes().replace(b"510.5", b"510,5"))
    (frame,) = DicomFile(path, DicomOptions("voi")).iterate_frames()
    np.testing.assert_array_equal(frame.pixels, expected.pixels)


def write_groups(path: Path, slopes: list[float], num_frames: int) -> Path:
    """Write frames of PIXELS, of which the first ones have functional groups with a slope."""
    groups = []
    for slope in slopes:
        group, transformation = pydicom.Dataset(), pydicom.Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, -1
        group.PixelValueTransformationSequence = [transformation]
        groups.append(group)
    pixels = np.stack([PIXELS] * num_frames)
    return write_dicom(path, pixels, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups)


def test_frames_without_functional_groups(tmp_path: Path) -> None:
    frames, _ = read(write_groups(tmp_path / "a.dcm", [2, 2], num_frames=3))
    np.testing.assert_array_equal(frames[2].pixels, [[-1, 19], [39, 1999]])
    path = write_groups(tmp_path / "b.dcm", [2, 3], num_frames=3)
    with pytest.raises(DataError, match=r"different values.* for 2 frames and none for frame 2"):
        read(path)


def test_groups_of_frames_beyond_the_stated_number_count_for_the_type(tmp_path: Path) -> None:
    write_groups(tmp_path / "a.dcm", [1, 1, 0.5], num_frames=3)
    (tmp_path / "in").mkdir()
    (tmp_path / "a.dcm").rename(tmp_path / "in/a.dcm")
    convert_dicom(tmp_path / "in", tmp_path / "out")
    pixels = tifffile.imread(tmp_path / "out/images/train/a/0002.tif")
    np.testing.assert_array_equal(pixels, np.float32([[-1, 4], [9, 499]]))


def test_decimal_commas_are_read(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, PixelSpacing=[0.125, 0.625])
    path.write_bytes(path.read_bytes().replace(b"0.125", b"0,125").replace(b"0.625", b"0,625"))
    (frame,), _ = read(path)
    assert frame.spacing == (0.125, 0.625)


def test_a_single_spacing_is_rejected_with_its_value(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, PixelSpacing=0.5)
    with pytest.raises(DataError, match="the PixelSpacing must be two numbers"):
        read(path)


def test_frames_beyond_the_stated_number_are_converted(tmp_path: Path) -> None:
    three = np.arange(12, dtype=np.uint16).reshape(3, 2, 2)
    frames, repairs = read(write_dicom(tmp_path / "a.dcm", three, NumberOfFrames=2))
    np.testing.assert_array_equal([frame.pixels for frame in frames], three)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert len(repairs) == 1
    assert repairs[0].startswith("NumberOfFrames is smaller")
    frames, repairs = read(write_dicom(tmp_path / "b.dcm", three))
    assert (len(frames), repairs) == (3, [])
    # One byte of padding is not a frame.
    frames, repairs = read(write_dicom(tmp_path / "c.dcm", np.full((1, 1), 7, np.uint8)))
    assert (len(frames), repairs) == (1, [])


@pytest.mark.parametrize("has_offsets", [True, False])
@pytest.mark.parametrize(
    ("syntax", "frame"), [(RLELossless, b"\x01" * 64), (JPEG2000Lossless, b"\xff\x4f\xff\x51" * 9)]
)
def test_encapsulated_frames_are_counted(*, has_offsets: bool, syntax: str, frame: bytes) -> None:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.NumberOfFrames = 2
    dataset.PixelData = encapsulate([frame] * 3, has_bot=has_offsets)
    assert repair_number_of_frames(dataset) is not None
    assert dataset.NumberOfFrames == 3
    assert repair_number_of_frames(dataset) is None


@pytest.mark.parametrize(
    "name", ["rtdose_rle.dcm", "SC_rgb_rle_2frame.dcm", "examples_jpeg2k.dcm", "CT_small.dcm"]
)
def test_published_files_state_their_frames(name: str) -> None:
    assert repair_number_of_frames(pydicom.dcmread(FILES / name)) is None


@pytest.mark.parametrize("has_meta", [True, False])
@pytest.mark.parametrize("is_implicit", [True, False])
def test_files_without_preamble(tmp_path: Path, *, has_meta: bool, is_implicit: bool) -> None:
    path = write_dicom(tmp_path / "in.dcm", PIXELS)
    dataset = pydicom.dcmread(path)
    if has_meta:
        content = path.read_bytes()[132:]
    else:
        bare = tmp_path / "bare"
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.save_as(bare, implicit_vr=is_implicit, little_endian=True)
        content = bare.read_bytes()
        content = content[132:] if content[128:132] == b"DICM" else content
        assert content[:2] == b"\x08\x00"
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "bare.dcm").write_bytes(content)
    (summary,) = convert_dicom(folder, tmp_path / "out")
    assert summary.images == 1
    assert summary.skipped == ()
    assert any("preamble" in warning and "bare.dcm" in warning for warning in summary.warnings)
    (frame,), _ = read(folder / "bare.dcm")
    np.testing.assert_array_equal(frame.pixels, PIXELS)


@pytest.mark.parametrize("is_little_endian", [True, False])
@pytest.mark.parametrize("first", [0x0008, 0x0010])
def test_elements_without_meta_information(
    tmp_path: Path, *, first: int, is_little_endian: bool
) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "in.dcm", PIXELS))
    for tag in [tag for tag in dataset.keys() if tag.group < first]:  # noqa: SIM118
        del dataset[tag]
    if not is_little_endian:
        dataset.PixelData = PIXELS.byteswap().tobytes()
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, is_little_endian
    write_dataset(buffer, dataset)
    (tmp_path / "bare").write_bytes(buffer.getvalue())
    order = "little" if is_little_endian else "big"
    assert buffer.getvalue()[:2] == first.to_bytes(2, order)
    assert is_dicom(tmp_path / "bare")
    (frame,), _ = read(tmp_path / "bare")
    np.testing.assert_array_equal(frame.pixels, PIXELS)


@pytest.mark.parametrize("start", [b"", b"DICM", b"\0" * 128])
def test_incomplete_preambles(tmp_path: Path, start: bytes) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS)
    path.write_bytes(start + path.read_bytes()[132:])
    (frame,), repairs = read(path)
    np.testing.assert_array_equal(frame.pixels, PIXELS)
    assert len(repairs) == 1
    assert "preamble" in repairs[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x00",
        b"\x08\x00\x05\x00CS\x0a\x00",
        b"\x08\x00\x05\x00\xff\xff\xff\xff" + b"x" * 200,
        b"\x08\x00\x16\x00\x02\x00\x00\x00ab\x01\x00\x16\x00\x02\x00\x00\x00ab",
        b"\x08\x00\x16\x00CS\x02\x00ab" + b"\x08\x00\x05\x00CS\x02\x00ab",
        b"PK\x03\x04" + b"\0" * 300,
        b"id,x,y\n" * 100,
    ],
)
def test_other_files_are_not_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not is_dicom(tmp_path / "x")


@pytest.mark.parametrize(
    ("elements", "part"),
    [
        ({"Modality": "SEG"}, r"labels \(SEG\)"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, r"labels \(Segmentation Storage\)"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7"}, "labels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.8"}, "labels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "doses"),
        ({"SegmentSequence": [pydicom.Dataset()]}, "SegmentSequence"),
    ],
)
def test_labels_of_any_modality_are_skipped(
    tmp_path: Path, elements: dict[str, Any], part: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_dicom(folder / "ct.dcm", PIXELS)
    write_dicom(folder / "seg.dcm", PIXELS, **elements)
    (summary,) = convert_dicom(folder, tmp_path / "out")
    assert summary.images == 1
    (skipped,) = summary.skipped
    assert skipped.file == "seg.dcm"
    assert re.search(part, skipped.reason)
