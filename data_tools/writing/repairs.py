"""Repairs of faults in source files, counted and reported with the names of the files."""

from __future__ import annotations

from resnet_tasks.number_formats import Count

MAX_NAMES = 3
"""Number of files that a report names; the count covers all of them."""


class RepairList:
    """Repairs of one split, grouped by their description."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, None]] = {}

    def add(self, description: str, file: str) -> None:
        """Record that the same kind of fault was repaired in one more file.

        Args:
            description: Fault and its repair, as a sentence without a period and without values
                that differ between files.
            file: Name of the file; a file counts once per description.
        """
        self._files.setdefault(description, {})[file] = None

    def describe(self) -> tuple[str, ...]:
        """Return one sentence per kind of fault, with the number of files and the first names."""
        return tuple(
            f"{description}: {Count(len(files)):file} ({_format_names(list(files))})"
            for description, files in self._files.items()
        )


def _format_names(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES])
    more = len(names) - MAX_NAMES
    return f"{shown} and {Count(more):other}" if more > 0 else shown
