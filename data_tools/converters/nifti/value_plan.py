"""Plan of the values of a dataset of NIfTI volumes, made from their headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from data_tools.converters.nifti.layouts import Case
from data_tools.converters.nifti.volumes import read_value_range
from data_tools.writing.value_types import (
    ValueRange,
    ValueType,
    choose_dataset_dtype,
    describe_mixed_depths,
)

_DEPTHS = {255: 8, 65535: 16}
"""Largest value -> bits of the unsigned types of images."""


class ValuePlan:
    """Type of the slices of a dataset, and the bit depths that its volumes mix.

    Args:
        cases: Volumes of all splits.

    Attributes:
        dtype: Type of all slices.
        mixture: Warning if the dataset mixes unsigned volumes of 8 and 16 bits, else None.

    Raises:
        DataError: If a file is missing or its header is damaged.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        ranges = {case.name: [*map(read_value_range, case.channels)] for case in cases}
        self.dtype: ValueType = choose_dataset_dtype(
            value_range for case_ranges in ranges.values() for value_range in case_ranges
        )
        self._bits = {name: _find_depth(case_ranges) for name, case_ranges in ranges.items()}
        volumes_by_bits = Counter(bits for bits in self._bits.values() if bits)
        self.mixture = describe_mixed_depths(volumes_by_bits) if len(volumes_by_bits) > 1 else None

    def find_bits(self, case_name: str) -> int | None:
        """Return the bits per value of a volume if the dataset mixes bit depths, else None."""
        return None if self.mixture is None else self._bits[case_name]


def _find_depth(ranges: Iterable[ValueRange]) -> int | None:
    """Return the bits of unsigned, unscaled channels; others have a unit or an unknown range."""
    depths = {_DEPTHS.get(int(r.high)) if r.is_whole and not r.low else None for r in ranges}
    return max((bits for bits in depths if bits), default=None) if None not in depths else None
