"""Lists of names in text files: names with spaces, in quotes, with image suffixes and flags."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from data_tools.reading.source_folder import IMAGE_SUFFIXES, read_lines
from resnet_tasks.errors import DataError

_NAME_SUFFIXES = (*IMAGE_SUFFIXES, ".json", ".xml")
_COLUMNS = (
    re.compile(r"\s+[-+]?[01]$"),
    re.compile(r"(?:\s+[-+]?[0-9]+){2,}$"),
    re.compile(r"(?:\s+\S*/\S*)+$"),
)
"""Columns after a name: the flag of a VOC list of one class, several numbers, or paths.

A single number other than a flag is not a column, because many names end in one: `cell 2`.
"""
_QUOTED = re.compile(r"([\"'])(.+)\1")


def read_names(file: Path, known: Collection[str]) -> list[str]:
    """Return the name in every line that is not blank.

    A line may contain a name with spaces, in quotes, with a suffix, and with columns after it. The
    longest reading that is a known name is used, so that `cell 1` is only the name `cell` with a
    flag if there is no `cell 1`. Names are compared regardless of Unicode normalization.

    Args:
        file: Path of the list.
        known: Names without suffix that may be listed, as stored.

    Returns:
        Known names, and lines without quotes and suffix for names that are not known.

    Raises:
        DataError: If the list cannot be read, is empty or contains a name twice.
    """
    stored_names = {normalize_name(name): name for name in known}
    names = [_find_name(line.strip(), stored_names) for line in read_lines(file) if line.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or not names:
        problem = f"lists {repeated[0]!r} more than once" if repeated else "lists nothing"
        raise DataError(f"{file} {problem}; it should contain one name per line, each once")
    return names


def normalize_name(name: str) -> str:
    """Return a name in the Unicode form NFC; macOS stores some file names in the form NFD."""
    return unicodedata.normalize("NFC", name)


def _find_name(line: str, stored_names: dict[str, str]) -> str:
    texts = (line, *(columns.sub("", line) for columns in _COLUMNS))
    readings = [reading for text in texts for reading in _list_forms(text)]
    matching = (stored_names.get(normalize_name(reading)) for reading in readings)
    return next((name for name in matching if name is not None), _strip_suffix(_unquote(line)))


def _list_forms(text: str) -> Iterator[str]:
    for form in (text, _unquote(text)):
        yield form
        yield _strip_suffix(form)


def _unquote(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return quoted[2] if quoted else text


def _strip_suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in _NAME_SUFFIXES else name
