import numpy as np
import pytest

from data_tools.writing.value_types import (
    ValueRange,
    ValueType,
    choose_dataset_dtype,
    widen_dtype,
)

BYTE = ValueRange(0, 255, is_whole=True)
WORD = ValueRange(0, 65535, is_whole=True)
SIGNED = ValueRange(-32768, 32767, is_whole=True)
OFFSET = ValueRange(-1024, 64511, is_whole=True)
LONG = ValueRange(0, 2.0**32 - 1, is_whole=True)
FRACTIONS = ValueRange(0, 1, is_whole=False)


@pytest.mark.parametrize(
    ("ranges", "dtype"),
    [
        ([BYTE], np.uint8),
        ([BYTE, BYTE], np.uint8),
        ([BYTE, WORD], np.uint16),
        ([WORD, SIGNED], np.int16),
        ([OFFSET], np.int16),
        ([LONG], np.uint16),
        ([BYTE, FRACTIONS], np.float32),
        ([SIGNED, FRACTIONS], np.float32),
    ],
)
def test_one_type_holds_all_ranges(ranges: list[ValueRange], dtype: ValueType) -> None:
    assert choose_dataset_dtype(ranges) is dtype
    assert choose_dataset_dtype(reversed(ranges)) is dtype


@pytest.mark.parametrize(
    ("dtype", "low", "high", "wide"),
    [
        (np.uint8, 0, 3, np.uint8),
        (np.uint16, 0, 3, np.uint16),
        (np.uint16, 0, 65536, np.uint32),
        (np.int16, 0, 255, np.int16),
        (np.int16, -1024, 32768, np.int32),
        (np.int16, -1024, 2.0**31, np.float32),
        (np.float32, 0, 3, np.float32),
    ],
)
def test_values_beyond_the_type_get_a_wider_type_of_the_same_sign(
    dtype: ValueType, low: float, high: float, wide: ValueType
) -> None:
    assert widen_dtype(dtype, low, high) is wide
