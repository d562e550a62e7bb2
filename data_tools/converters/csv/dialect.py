"""Encoding, separator and column names of CSV tables of boxes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from resnet_tasks.errors import DataError
from resnet_tasks.files.text_encoding import detect_encoding

MAX_LINE = 1 << 20
"""Maximum number of characters that are read as one line."""
SEPARATORS = (",", ";", "\t", "|")
USUAL_NAMES = {
    "image": ("imageid", "filename", "imagename", "imagepath", "image", "file", "path", "img"),
    "class": ("classname", "class", "labelname", "label", "categoryname", "category"),
    "x_min": ("xmin", "x1", "left"),
    "y_min": ("ymin", "y1", "top"),
    "x_max": ("xmax", "x2", "right"),
    "y_max": ("ymax", "y2", "bottom"),
    "crowd": ("isgroupof", "iscrowd"),
    "image_height": ("height", "imageheight", "imgheight"),
    "image_width": ("width", "imagewidth", "imgwidth"),
}
"""Meaning of a column -> usual names in lower case, without spaces and punctuation.

`x` and `y` are not among them, because they may be a corner or the center of a box. In tables with
both corners, `width` and `height` are usually the size of the image.
"""


class OpenTable(NamedTuple):
    """Table that is being read.

    Attributes:
        rows: Rows after the header.
        num_header_lines: Number of lines before the first row.
        has_decimal_commas: Whether numbers may have a decimal comma.
    """

    rows: csv.DictReader[str]
    num_header_lines: int
    has_decimal_commas: bool


@contextmanager
def open_table(file: Path) -> Iterator[OpenTable]:
    """Open a table whose first line names the columns.

    The separator is the one that splits that line into the most columns. Excel writes semicolons in
    many languages, and tabs in UTF-16.

    Raises:
        OSError: If the file cannot be read.
        UnicodeDecodeError: If it is neither UTF-8 nor UTF-16 with a byte order mark.
        csv.Error: If its header is longer than `MAX_LINE`; the rows raise it for other lines.
    """
    with file.open("rb") as binary:
        encoding = detect_encoding(binary.read(2))
        binary.seek(0)
        with io.TextIOWrapper(binary, encoding, newline="") as stream:
            header = _read_line(stream)
            if stated := re.fullmatch(r"sep=(.)\s*", header):  # a line for Excel
                separator = stated[1]
                header = _read_line(stream)
                num_header_lines = 2
            else:
                num_header_lines = 1
                separator = max(SEPARATORS, key=lambda candidate: len(_split(header, candidate)))
            names = [name.strip() for name in _split(header, separator)]
            rows = csv.DictReader(_iterate_lines(stream), names, delimiter=separator)
            yield OpenTable(rows, num_header_lines, separator != ",")


def _iterate_lines(stream: IO[str]) -> Iterator[str]:
    while line := _read_line(stream):
        yield line


def _read_line(stream: IO[str]) -> str:
    line = stream.readline(MAX_LINE)
    if len(line) == MAX_LINE and not line.endswith("\n"):
        raise csv.Error(f"a line has more than {MAX_LINE:,} characters, the limit")
    return line


def _split(header: str, separator: str) -> list[str]:
    return next(csv.reader([header], delimiter=separator), [])


def find_usual_column(meaning: str, default: str, header: Sequence[str], file: Path) -> str:
    """Return the column with a meaning, or the default name if no column has a usual name.

    Args:
        meaning: Meaning of the column, a key of `USUAL_NAMES`.
        default: Name of the column in VinDr-CXR.
        header: Names of all columns.
        file: Path of the table, for the error message.

    Raises:
        DataError: If two columns have usual names of this meaning.
    """
    if default and default in header:
        return default
    matching = [name for name in header if _simplify(name) in USUAL_NAMES.get(meaning, ())]
    if len(matching) > 1:
        raise DataError(
            f"the table {file} has the columns {matching[0]!r} and {matching[1]!r}, which may both "
            f"be the {meaning}; choose one with columns={{{meaning}: {matching[0]}}}"
        )
    return matching[0] if matching else default


def _simplify(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def replace_decimal_commas(cells: Mapping[str, str]) -> dict[str, str]:
    """Return the cells with a point in place of a decimal comma."""
    return {
        key: text.replace(",", ".") if re.fullmatch(r"-?[0-9]+,[0-9]+", text) else text
        for key, text in cells.items()
    }
