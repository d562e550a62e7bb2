"""Reader of CSV tables with one box per row, and merging of the findings of several readers."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_tools.converters.csv.dialect import (
    find_usual_column,
    open_table,
    replace_decimal_commas,
)
from data_tools.shapes.invalid_shape import InvalidShapeError
from resnet_tasks.errors import DataError

Corners = tuple[float, float, float, float]

COLUMNS = {
    "image": "image_id",
    "class": "class_name",
    "reader": "rad_id",
    "x_min": "x_min",
    "y_min": "y_min",
    "x_max": "x_max",
    "y_max": "y_max",
    "width": "",
    "height": "",
    "group": "",
    "crowd": "",
}
"""Meaning of a column -> its name in VinDr-CXR; empty for columns that VinDr-CXR does not have."""
OPTIONAL = ("reader",)
"""Columns that a table may lack unless the options name them."""
SAME_FINDING = 0.5
"""Minimum IoU at which the boxes of two readers are the same finding."""


@dataclass(frozen=True, slots=True)
class TableBox:
    """One box of a table.

    Attributes:
        label: Class of the box in the table.
        corners: (x_min, y_min, x_max, y_max) in pixels of the image.
        reader: Name of the reader who drew the box; empty if the table does not state it.
        line: Line number in the file, from 1.
        is_crowd: Whether the box surrounds several objects (`IsGroupOf` of Open Images).
    """

    label: str
    corners: Corners
    reader: str
    line: int
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """Row without a usable box or class.

    Attributes:
        reader: Name of the reader; empty if the table does not state it.
        description: Class and line of the row.
        error: Error that names the table, the line and the fault.
    """

    reader: str
    description: str
    error: DataError


@dataclass
class TableImage:
    """Content of a table for one image.

    Attributes:
        readers: Names of the readers who looked at the image; an empty name if the table does not
            state it.
        boxes: Boxes of all readers, in order of the table.
        invalid: Rows that cannot be used, in order of the table.
        group: Patient or study; None if the table has no such column.
        size: (height, width) of the image; None if the table does not state it.
    """

    readers: set[str] = field(default_factory=set)
    boxes: list[TableBox] = field(default_factory=list)
    invalid: list[InvalidRow] = field(default_factory=list)
    group: str | None = None
    size: tuple[int, int] | None = None


def read_box_table(
    file: Path, columns: Mapping[str, str], *, empty: str = "No finding"
) -> dict[str, TableImage]:
    """Read one table.

    Args:
        file: Path of the CSV file, whose first line names the columns.
        columns: Keys of `COLUMNS` -> names of the columns; default: those of VinDr-CXR, or usual
            names. If `width` and `height` are named, they replace `x_max` and `y_max`.
        empty: Class of rows that state that a reader found nothing; they need no box. A row without
            class and without coordinates states the same.

    Returns:
        Name of an image -> its readers, boxes, invalid rows and group, in order of the table.

    Raises:
        DataError: If the file cannot be read, lacks a column, or has a row without image; the
            message names the line.
    """
    images: dict[str, TableImage] = {}
    try:
        with open_table(file) as (rows, num_header_lines, has_decimal_commas):
            names = resolve_columns(file, rows.fieldnames or (), columns)
            for row in rows:
                cells = {key: (row.get(name) or "").strip() for key, name in names.items() if name}
                if has_decimal_commas:
                    cells |= replace_decimal_commas({k: cells[k] for k in _NUMBERS if k in cells})
                line = rows.line_num + num_header_lines
                if any(cells.values()):
                    _add_row(images, cells, empty, f"{file}:{line}", line)
                    image = images[cells["image"]]
                    image.size = image.size or _parse_image_size(cells)
    except FileNotFoundError:
        raise DataError(
            f"the table {file} is missing; add it, or name another one in tables"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        remedy = "save it as UTF-8" if isinstance(error, UnicodeError) else "it must be a CSV"
        raise DataError(f"the table {file} cannot be read ({error}); {remedy}") from None
    if not images:
        raise DataError(f"the table {file} has no rows; is it the right file?")
    return images


def resolve_columns(
    file: Path, header: Sequence[str], columns: Mapping[str, str]
) -> dict[str, str]:
    """Return the name of the column for every key of `COLUMNS`, empty if there is none.

    Args:
        file: Path of the table, for error messages.
        header: Names of the columns of the table.
        columns: Names of columns that the options state.

    Raises:
        DataError: If a key is unknown, or a column is missing.
    """
    unknown = [key for key in columns if key not in COLUMNS]
    if unknown:
        raise DataError(
            f"columns has the unknown key {unknown[0]!r}; allowed: {', '.join(COLUMNS)}"
        )
    usual = {
        key: name if key in columns else find_usual_column(key, name, header, file)
        for key, name in COLUMNS.items()
    }
    names = {**usual, **columns}
    if names["width"] or names["height"]:
        names["x_max"] = names["y_max"] = ""
    for key in OPTIONAL:
        if key not in columns and names[key] not in header:
            names[key] = ""
    missing = {key: name for key, name in names.items() if name and name not in header}
    if missing:
        header_text = ", ".join(" ".join(name.split()) for name in header) or "none"
        remedy = f"name the columns with columns={{{', '.join(f'{key}: NAME' for key in missing)}}}"
        if {"x_max", "y_max"} <= missing.keys():
            remedy += " (or width and height in place of x_max and y_max)"
        if any(map(_is_number, header)):
            remedy = "the first line is a row; add a line with the names of the columns above it"
        raise DataError(
            f"the table {file} has no column {next(iter(missing.values()))!r}; it has "
            f"{header_text}: {remedy}"
        )
    return names | _find_size_columns(header, names)


def _find_size_columns(header: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of the size of the image, unless they are the size of the box."""
    if names["width"] or names["height"]:
        return {}
    columns = {key: find_usual_column(key, "", header, Path()) for key in _IMAGE_SIZE}
    return columns if all(columns.values()) else {}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+([.,][0-9]+)?", text) is not None


def _add_row(
    images: dict[str, TableImage],
    cells: Mapping[str, str],
    empty: str,
    location: str,
    line: int,
) -> None:
    if not cells["image"]:
        raise DataError(f"{location} names no image; add the name or remove the row")
    image = images.setdefault(cells["image"], TableImage())
    reader = cells.get("reader", "")
    image.readers.add(reader)
    if group := cells.get("group", ""):
        if image.group not in (None, group):
            raise DataError(
                f"{location} puts the image {cells['image']} into the group {group!r}, but "
                f"an earlier line into {image.group!r}; an image belongs to one group"
            )
        image.group = group
    label = cells["class"]
    if label == empty or not (label or any(cells.get(key) for key in _NUMBERS)):
        return
    corners = _parse_corners(cells)
    if label and corners is not None:
        is_crowd = cells.get("crowd", "").lower() in _TRUE
        image.boxes.append(TableBox(label, corners, reader, line, is_crowd))
        return
    box_text = ", ".join(f"{k}={cells[k]!r}" for k in COLUMNS if k in cells and k in _NUMBERS)
    fault = (
        f": a {label!r} has the box {box_text}; a box needs four numbers; use the class {empty!r} "
        "where nothing was found"
        if label
        else f" names no class for the box {box_text}"
    )
    description = f"{label} (line {line})" if label else f"line {line}"
    image.invalid.append(InvalidRow(reader, description, InvalidShapeError(location + fault)))


def _parse_image_size(cells: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the (height, width) of the image that a row states."""
    try:
        height, width = (float(cells[key]) for key in _IMAGE_SIZE)
    except (KeyError, ValueError):
        return None
    if (corners := _parse_corners(cells)) is not None:
        x1, y1, x2, y2 = corners
        difference = max(abs(x2 - x1 - width), abs(y2 - y1 - height))
        if difference <= 1:  # the columns are the width and height of the box
            return None
    is_size = height.is_integer() and width.is_integer() and min(height, width) > 0
    return (int(height), int(width)) if is_size else None


# Open Images writes 1, 0 and, if unknown, -1.
_TRUE = ("1", "1.0", "true", "yes")
_IMAGE_SIZE = ("image_height", "image_width")
_NUMBERS = ("x_min", "y_min", "x_max", "y_max", "width", "height")


def _parse_corners(cells: Mapping[str, str]) -> Corners | None:
    try:
        numbers = {key: float(cells[key]) for key in _NUMBERS if key in cells}
    except ValueError:
        return None
    if not all(map(math.isfinite, numbers.values())):
        return None
    x, y = numbers["x_min"], numbers["y_min"]
    if "x_max" in numbers:
        return (x, y, numbers["x_max"], numbers["y_max"])
    return (x, y, x + numbers["width"], y + numbers["height"])


def merge_findings(boxes: Iterable[TableBox]) -> Iterator[tuple[TableBox, int]]:
    """Merge the boxes of several readers, so that each finding occurs once.

    In order of the table, a box joins the finding of its class with the highest IoU, if that is at
    least `SAME_FINDING` and the finding has no box of the same reader yet. Otherwise it starts a
    new finding. The box of a finding is the mean of the corners of its readers.

    Yields:
        Findings in order of their first box, with its reader and line, and the number of readers.
    """
    findings: list[list[TableBox]] = []
    for box in boxes:
        candidates = [
            (overlap, index)
            for index, finding in enumerate(findings)
            if finding[0].label == box.label
            and box.reader not in {finding_box.reader for finding_box in finding}
            if (overlap := _iou(_average_corners(finding), box.corners)) >= SAME_FINDING
        ]
        if candidates:
            findings[
                max(candidates, key=lambda candidate: (candidate[0], -candidate[1]))[1]
            ].append(box)
        else:
            findings.append([box])
    for finding in findings:
        first = finding[0]
        yield (
            replace(first, corners=_average_corners(finding)),
            len(finding),
        )


def _average_corners(finding: Sequence[TableBox]) -> Corners:
    x1, y1, x2, y2 = (sum(box.corners[i] for box in finding) / len(finding) for i in range(4))
    return (x1, y1, x2, y2)


def _iou(one: Corners, other: Corners) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)]
    return width * height / (sum(areas) - width * height)
