from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from data_tools.converters.dicom.frames import DicomFile
from data_tools.converters.dicom.lookup_tables import apply_lookup_table
from data_tools.converters.dicom.options import DicomOptions, Values
from resnet_tasks.errors import DataError
from tests.support.dicom_files import write_dicom


def build_table(descriptor: list[int], content: bytes) -> pydicom.Dataset:
    table = pydicom.Dataset()
    table.add(pydicom.DataElement("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", descriptor))
    table.add(pydicom.DataElement("LUTData", "OW", content))
    return table


def apply(values: list[int], table: pydicom.Dataset, *, is_little_endian: bool = True) -> list[int]:
    stored = np.array(values, dtype=np.int16)
    return apply_lookup_table(stored, table, is_little_endian=is_little_endian).tolist()


def test_entries_are_words_or_packed_bytes() -> None:
    words = np.array([10, 20, 30, 40], dtype=np.uint16)
    assert apply([0, 3, 9, 1], build_table([4, 0, 12], words.tobytes())) == [10, 40, 40, 20]
    assert apply([0, 3], build_table([4, 0, 8], bytes([10, 20, 30, 40]))) == [10, 40]
    big = build_table([4, 0, 16], words.astype(">u2").tobytes())
    assert apply([0, 3], big, is_little_endian=False) == [10, 40]
    with pytest.raises(ValueError, match="has 4 bytes, too few for its 4 entries"):
        apply([0], build_table([4, 0, 12], bytes(4)))
    with pytest.raises(ValueError, match="has 2 bytes, too few for its 4 entries"):
        apply([0], build_table([4, 0, 8], bytes(2)))


def test_first_values_may_be_negative() -> None:
    content = np.array([1, 2, 3], dtype="<u2").tobytes()
    assert apply([-9, -5, -4, 0], build_table([3, -5, 16], content)) == [1, 1, 2, 3]
    # The same number as an unsigned word; without negative values, it is what it says.
    assert apply([-9, -5, -4, 0], build_table([3, 65536 - 5, 16], content)) == [1, 1, 2, 3]
    assert apply([0, 9], build_table([3, 65536 - 5, 16], content)) == [1, 1]


def test_a_count_of_0_is_65536() -> None:
    content = np.arange(65536, dtype="<u2").tobytes()
    assert apply([0, 300, 32767], build_table([0, 0, 16], content)) == [0, 300, 32767]


@pytest.mark.parametrize(
    ("values", "expected"),
    [("voi", [[65535, 61423], [0, 65535]]), ("modality", [[255, 239], [0, 255]])],
)
def test_tables_of_few_bits_with_many_entries(
    tmp_path: Path, values: Values, expected: list[list[int]]
) -> None:
    # 4096 entries of 8 bits, from 0 to 255; MONOCHROME1 inverts the result.
    steps = (np.arange(4096) // 16).astype(np.uint8)
    sequence = [build_table([4096, 0, 8], steps.tobytes())]
    keywords = {"voi": "VOILUTSequence", "modality": "ModalityLUTSequence"}
    pixels = np.array([[0, 270], [4095, 15]], dtype=np.uint16)
    elements: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, keywords[str(values)]: sequence}
    path = write_dicom(tmp_path / "a", pixels, PhotometricInterpretation="MONOCHROME1", **elements)
    (frame,) = DicomFile(path, DicomOptions(values)).iterate_frames()
    # 270 // 16 = 16, so that 255 - 16 = 239 of 255 remain: 239 * 257 = 61423.
    np.testing.assert_array_equal(frame.pixels, expected)


def test_tables_that_are_too_short_name_the_file(tmp_path: Path) -> None:
    sequence = [build_table([4096, 0, 12], bytes(100))]
    path = write_dicom(tmp_path / "a", np.zeros((2, 2), np.uint16), ModalityLUTSequence=sequence)
    with pytest.raises(DataError, match=f"{path} cannot be read: the lookup table has 100 bytes"):
        list(DicomFile(path, DicomOptions()).iterate_frames())
