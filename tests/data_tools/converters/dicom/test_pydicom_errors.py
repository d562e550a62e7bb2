"""Errors of DICOM files never quote a value, which may identify the patient."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from data_tools.converters.dicom.frames import DicomFile
from data_tools.converters.dicom.options import DicomOptions
from resnet_tasks.cli import app
from resnet_tasks.errors import DataError
from tests.support.dicom_files import write_dicom

SECRET = "DOE^JOHN"
PIXELS = np.arange(16, dtype=np.uint16).reshape(4, 4)


def write_damaged(path: Path, keyword: str, representation: str, value: Any) -> None:
    """Write a file with one element of another type, as damaged files and bad software have it."""
    dataset = pydicom.dcmread(write_dicom(path, PIXELS, RescaleIntercept=0, RescaleSlope=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if keyword in dataset:
            del dataset[keyword]
        dataset.add(pydicom.DataElement(keyword, representation, value))
        dataset.save_as(path)


DAMAGE = [
    ("RescaleSlope", "LO", SECRET),
    ("RescaleSlope", "LO", [SECRET, "1"]),
    ("RescaleIntercept", "LO", ["1", "19520312"]),
    ("PixelSpacing", "LO", [SECRET, "1"]),
    ("PixelSpacing", "LO", ["-19520312", "1"]),
    ("PixelAspectRatio", "LO", [SECRET, "1"]),
    ("PhotometricInterpretation", "LO", SECRET),
    ("BitsStored", "LO", SECRET),
    ("BitsStored", "LO", "19520312"),
    ("BitsAllocated", "LO", SECRET),
    ("HighBit", "LO", SECRET),
    ("Rows", "LO", SECRET),
    ("Columns", "LO", SECRET),
    ("SamplesPerPixel", "LO", SECRET),
    ("PixelRepresentation", "LO", SECRET),
    ("NumberOfFrames", "LO", SECRET),
    ("NumberOfFrames", "LO", "19520312"),
    ("PixelPaddingValue", "LO", SECRET),
    ("PlanarConfiguration", "LO", SECRET),
    ("SOPClassUID", "UI", SECRET),
    ("SOPClassUID", "LO", SECRET),
    ("Modality", "LO", SECRET),
    ("SharedFunctionalGroupsSequence", "LO", SECRET),
    ("PerFrameFunctionalGroupsSequence", "LO", SECRET),
]


def require_no_secret(text: str) -> None:
    assert not any(secret in text for secret in ("DOE", "JOHN", "1952")), text


@pytest.mark.parametrize(("keyword", "representation", "value"), DAMAGE)
@pytest.mark.parametrize("values", ["modality", "voi"])
def test_no_message_quotes_a_value(
    tmp_path: Path, keyword: str, representation: str, value: Any, values: Any
) -> None:
    write_damaged(tmp_path / "b.dcm", keyword, representation, value)
    texts = []
    try:
        dicom = DicomFile(tmp_path / "b.dcm", DicomOptions(values))
        texts.append(dicom.explain_missing_image() or "")
        dicom.list_gray_ranges()
        list(dicom.iterate_frames())
        texts += dicom.repairs
    except DataError as error:
        texts.append(str(error))
    require_no_secret(" ".join(texts))


@pytest.mark.slow
@pytest.mark.parametrize(("keyword", "representation", "value"), DAMAGE)
def test_neither_the_console_nor_the_data_card_quotes_a_value(
    tmp_path: Path, keyword: str, representation: str, value: Any
) -> None:
    (tmp_path / "in").mkdir()
    write_dicom(tmp_path / "in" / "a.dcm", PIXELS, RescaleIntercept=0, RescaleSlope=1)
    write_damaged(tmp_path / "in" / "b.dcm", keyword, representation, value)
    words = ["data", "convert", "dicom", str(tmp_path / "in"), str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    if result.exit_code:
        require_no_secret(result.output)
        result = CliRunner().invoke(app, [*words, "damaged=skip"])
    assert result.exit_code == 0, result.output
    require_no_secret(result.output + (tmp_path / "out" / "data_card.md").read_text())


def test_damaged_elements_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.dcm"
    write_dicom(file, PIXELS, NumberOfFrames=123456)
    content = file.read_bytes()
    assert content.count(b"123456") == 1
    file.write_bytes(content.replace(b"123456", b"DOE^JO"))
    result = CliRunner().invoke(app, ["data", "convert", "dicom", str(file.parent), "out"])
    assert result.exit_code == 2
    assert "the values of these elements are invalid: NumberOfFrames" in result.output
    assert "DOE" not in result.output
