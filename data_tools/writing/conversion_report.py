"""Report of a conversion: skipped, invalid, changed and repaired parts of one split, and notes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data_tools.shapes.invalid_shape import require_few_invalid
from data_tools.writing.split_summary import SkippedObject
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

MAX_NAMES = 3
"""Number of files that a warning names; the count covers all of them."""
SQUARE_TOLERANCE = 0.01
"""Pixels count as square if height and width differ by at most this fraction."""


class ConversionReport:
    """Differences between the source and the output of one split, and notes on the split.

    Attributes:
        skipped: Objects and files that are not in the output, with reasons.
        changed: Description of a change -> number of objects that differ from the source.
        notes: Sentences for the data card.
        num_areas: Number of valid shapes of the source that are only in label maps.
    """

    def __init__(self) -> None:
        self.skipped: list[SkippedObject] = []
        self.changed: Counter[str] = Counter()
        self.notes: list[str] = []
        self.num_areas = 0
        self._invalid: list[str] = []
        self._warnings: list[str] = []
        self._repaired_files: dict[str, dict[str, None]] = {}
        self._aspects: list[float] = []

    def skip(self, file: Path | str, description: str, reason: str) -> None:
        """Record an object that is not converted."""
        self.skipped.append(SkippedObject(str(file), description, reason))

    def skip_invalid(self, file: Path | str, description: str, error: DataError) -> None:
        """Record an invalid object that is not converted; see `require_few_invalid`."""
        self._invalid.append(str(error))
        self.skip(file, description, str(error))

    def count_change(self, description: str) -> None:
        """Count an object that differs from the source."""
        self.changed[description] += 1

    def add_repair(self, description: str, file: str) -> None:
        """Record that the same kind of fault was repaired in one more file.

        Args:
            description: Fault and its repair, as a sentence without a period and without values
                that differ between files.
            file: Name of the file; a file counts once per description.
        """
        self._repaired_files.setdefault(description, {})[file] = None

    def add_pixel_aspect(self, aspect: float) -> None:
        """Add the height / width of the pixels of an image."""
        if abs(aspect - 1) > SQUARE_TOLERANCE:
            self._aspects.append(aspect)

    def add_note(self, text: str) -> None:
        """Add a sentence to the data card."""
        self.notes.append(text)

    def warn(self, *warnings: str) -> None:
        """Add possible faults of the source to the data card; they are also printed."""
        self._warnings.extend(warnings)

    def require_few_invalid(self, num_valid: int, split: str) -> None:
        """Check that invalid objects are exceptions.

        Args:
            num_valid: Number of objects in the output of the split.
            split: Name of the split.

        Raises:
            DataError: If there are many; see `invalid_shape.require_few_invalid`.
        """
        require_few_invalid(self._invalid, num_valid + self.num_areas, split)

    def list_warnings(self) -> list[str]:
        """Return the warnings, with sentences on invalid objects, pixels and kinds of repair."""
        warnings = [*self._warnings]
        if self._invalid:
            warnings.append(
                f"{Count(len(self._invalid)):invalid object is} skipped: {self._invalid[0]}"
                f"{'; ...' if len(self._invalid) > 1 else ''}"
            )
        if self._aspects:
            warnings.append(_describe_aspects(self._aspects))
        warnings += [
            f"{description}: {Count(len(files)):file} ({_format_names(list(files))})"
            for description, files in self._repaired_files.items()
        ]
        return warnings


def _describe_aspects(aspects: list[float]) -> str:
    low, high = f"{min(aspects):.4g}", f"{max(aspects):.4g}"
    return (
        f"{Count(len(aspects)):image has|images have} pixels that are not square (height / width "
        f"{low if low == high else f'{low} to {high}'}); they are kept as stored, so that shapes "
        "are stretched; resample the images before the conversion if shapes matter"
    )


def _format_names(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES])
    more = len(names) - MAX_NAMES
    return f"{shown} and {Count(more):other}" if more > 0 else shown
