"""Spool of records for a list of a JSON file, in little memory for any number of records."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TextIO
from weakref import finalize

MAX_PENDING = 1 << 16
"""Number of characters of records that are kept in memory before they go to disk."""


class TextSpool:
    """Spool of records for a list of a JSON file; most of them wait on disk.

    The file on disk has no name and disappears with this object or its process, even after a crash.

    Args:
        folder: Folder of the file; created on the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self._folder = folder
        self._pending: list[str] = []
        self._length = 0
        self._stream: IO[str] | None = None

    def add(self, text: str) -> None:
        """Add one record."""
        self._pending.append(f", {text}" if self.count else text)
        self._length += len(text)
        self.count += 1
        if self._length > MAX_PENDING:
            self._flush()

    def copy_to(self, stream: TextIO) -> None:
        """Write all records, separated by commas."""
        if self._stream is not None:
            self._stream.seek(0)
            shutil.copyfileobj(self._stream, stream, 1 << 20)
        stream.write("".join(self._pending))

    def _flush(self) -> None:
        if self._stream is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The file stays open between calls and is closed with this object.
            self._stream = TemporaryFile("w+", encoding="utf-8", dir=self._folder)  # noqa: SIM115
            finalize(self, self._stream.close)
        self._stream.write("".join(self._pending))
        self._pending.clear()
        self._length = 0
