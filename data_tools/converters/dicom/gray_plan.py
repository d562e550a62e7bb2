"""Plan of the gray values of a dataset of DICOM files, made from their headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.converters.dicom.options import is_dicom
from data_tools.writing.value_types import (
    ValueRange,
    ValueType,
    choose_dataset_dtype,
    describe_mixed_depths,
)
from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    from data_tools.converters.dicom.frames import DicomFile


class GrayPlan:
    """Type of all gray images of a dataset, and the bit depths that it mixes."""

    def __init__(self) -> None:
        self._ranges: set[ValueRange] = set()
        self._files_by_bits: Counter[int] = Counter()

    @classmethod
    def from_files(cls, files: Iterable[Path], open_file: Callable[[Path], DicomFile]) -> GrayPlan:
        """Read the headers of files; other files and damaged ones are ignored here."""
        plan = cls()
        for file in files:
            if not is_dicom(file):
                continue
            try:
                plan._add(open_file(file))
            except DataError:
                continue  # The conversion reports the file.
        return plan

    def _add(self, dicom: DicomFile) -> None:
        if dicom.explain_missing_image() is not None:
            return
        ranges = dicom.list_gray_ranges()
        self._ranges.update(gray.values for gray in ranges)
        self._files_by_bits.update(
            {gray.bits for gray in ranges if gray.bits and not gray.has_unit}
        )
        if dicom.color_bits:
            self._files_by_bits[dicom.color_bits] += 1

    @property
    def dtype(self) -> ValueType | None:
        """Type of all gray images."""
        return choose_dataset_dtype(self._ranges) if self._ranges else None

    @property
    def has_mixed_depths(self) -> bool:
        """True if values without a unit have different numbers of stored bits."""
        return len(self._files_by_bits) > 1

    def describe_mixed_depths(self) -> str:
        """Return a warning with the files of every depth and the intensity step to use."""
        return describe_mixed_depths(
            self._files_by_bits, ", or convert with values=voi if the files state windows"
        )
