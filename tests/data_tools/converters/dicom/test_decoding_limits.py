"""DICOM files that would take gigabytes or minutes are rejected first."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, RLELossless

from data_tools.converters.dicom import decoding_limits
from data_tools.converters.dicom.decoding_limits import MAX_ELEMENTS
from data_tools.converters.dicom.frames import DicomFile, DicomFrame
from data_tools.converters.dicom.options import DicomOptions
from resnet_tasks.errors import DataError
from tests.data.images.test_declared_sizes import make_scans
from tests.data_tools.converters.dicom.test_frames import FILES, write

DEFLATED = FILES / "image_dfl.dcm"


def read(path: Path) -> list[DicomFrame]:
    return list(DicomFile(path, DicomOptions()).iterate_frames())


def write_frame(path: Path, frame: bytes, syntax: str, **elements: Any) -> Path:
    write(path, np.zeros((8, 8), np.uint8), BitsStored=8, HighBit=7, **elements)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([frame])
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)
    return path


def make_jpeg(side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_jpegs_of_many_scans_are_rejected(syntax: str, tmp_path: Path) -> None:
    """One of 5,000 scans of 64 megapixels takes minutes."""
    color = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    path = write_frame(tmp_path / "a", make_scans(101), syntax, **color)
    with pytest.raises(DataError, match=r"a cannot be read: it is a JPEG of more than 100 scans"):
        read(path)
    path = write_frame(tmp_path / "a", make_scans(100), syntax, **color)
    assert read(path)[0].pixels.shape == (8, 8, 3)


def test_jpegs_of_another_size_are_rejected(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "a", make_jpeg(24), JPEGBaseline8Bit)
    with pytest.raises(DataError, match=r"frame 0 is a JPEG of 24 x 24 pixels .* not the Columns"):
        read(path)
    path = write_frame(tmp_path / "a", make_jpeg(), JPEGBaseline8Bit)
    assert read(path)[0].pixels.shape == (8, 8)


def test_large_jpegs_are_rejected(tmp_path: Path) -> None:
    jpeg = bytearray(make_jpeg())
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 20_000, 20_000)
    path = write_frame(tmp_path / "a", bytes(jpeg), JPEGBaseline8Bit, Rows=20_000, Columns=20_000)
    with pytest.raises(DataError, match="frame 0 has more than 178,956,970 pixels, the limit"):
        read(path)


def test_small_frames_of_large_sizes_are_rejected(tmp_path: Path) -> None:
    """pydicom would allocate 4 GB for the RLE, and Pillow 144 MB for the JPEG."""
    segments = struct.pack("<16I", 1, 64, *[0] * 14) + bytes(100)
    path = write_frame(tmp_path / "a", segments, RLELossless, Rows=65535, Columns=65535)
    with pytest.raises(DataError, match="frame 0 is too short for the size that the header states"):
        read(path)
    jpeg = bytearray(make_jpeg())
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 12_000, 12_000)
    path = write_frame(tmp_path / "a", bytes(jpeg), JPEGBaseline8Bit, Rows=12_000, Columns=12_000)
    with pytest.raises(DataError, match="too few for the 12000 x 12000 pixels"):
        read(path)


def make_deflated(extra: bytes) -> bytes:
    """A deflated file with more elements at its end."""
    content = DEFLATED.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    body = zlib.decompress(content[start:], -zlib.MAX_WBITS) + extra
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return content[:start] + packer.compress(body) + packer.flush()


def test_deflated_files_are_inflated_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 2 MB takes 8 GB."""
    path = tmp_path / "a.dcm"
    zeros = struct.pack("<HH2sHI", 0x7FF1, 0x1001, b"OB", 0, 1 << 20) + bytes(1 << 20)
    path.write_bytes(make_deflated(zeros * 4))
    assert len(read(path)) == 1
    monkeypatch.setattr(decoding_limits, "SLACK", 1 << 20)
    monkeypatch.setattr(decoding_limits, "MAX_INFLATION", 10)
    message = r"a\.dcm cannot be read: its .* of deflated data grow beyond .*, the limit"
    for content in (make_deflated(zeros * 4), make_deflated(zeros * 4)[128:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read(path)
    path.write_bytes(make_deflated(b""))
    assert len(read(path)) == 1


def test_the_number_of_elements_is_limited(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm")
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    for number, is_valid in ((MAX_ELEMENTS - 30, True), (MAX_ELEMENTS + 1, False)):
        elements = (struct.pack("<HH2sHH", 9, 4096 + i, b"US", 2, 1) for i in range(number))
        path.write_bytes(content[:start] + b"".join(elements) + content[start:])
        if is_valid:
            assert len(read(path)) == 1
        else:
            with pytest.raises(DataError, match="it has more than 20,000 elements, the limit"):
                read(path)
