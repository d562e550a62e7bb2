"""Descriptions of damaged image files, in place of the texts of decoding libraries."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from resnet_tasks.errors import DataError, format_error

TRUNCATED = "the file is truncated: it ends before its last pixel"
_DAMAGED_HEADER = "its header is damaged"
_DAMAGED_PIXELS = "its compressed pixels are damaged"

_DESCRIPTIONS = (
    (r"mmap length is greater than file size", TRUNCATED),
    (r"failed to read [\d,]+ bytes, got [\d,]+", TRUNCATED),
    (r"image file is truncated.*", TRUNCATED),
    (r"Truncated File Read", TRUNCATED),
    (r"EOF: reading .*", TRUNCATED),
    (r"Failed to decode frame \d+: Truncated data", TRUNCATED),
    (r"Premature end of JPEG file", TRUNCATED),
    (r"Corrupt JPEG data: .*", _DAMAGED_PIXELS),
    (r"(broken|unrecognized) data stream.*", _DAMAGED_PIXELS),
    (r"Error -\d+ while decompressing data.*", _DAMAGED_PIXELS),
    (r"decoder error -\d+.*", _DAMAGED_PIXELS),
    (r"corrupted (tile|strip) .*", "its strips or tiles are truncated or damaged"),
    (
        r"(Decompressed data|Too much memory used in text chunks).*MAX_TEXT.*",
        "a text or the color profile exceeds the limit of 1,048,576 bytes; remove its metadata",
    ),
    (r"corrupted IFD structure", _DAMAGED_HEADER),
    (r"could not create decoder object", "the file is truncated, or its header is damaged"),
    (r"Cannot parse header.*", _DAMAGED_HEADER),
    (r"invalid literal for int.*", _DAMAGED_HEADER),
    (r"'<' not supported between .*", _DAMAGED_HEADER),
)
_PROGRAM_ERRORS = (ArithmeticError, AssertionError, IndexError, TypeError, struct.error)
"""Errors that readers raise if the fields of a header contradict each other."""


def describe_damage(error: BaseException) -> str:
    """Return a description of an error of an image reader, on one line.

    Args:
        error: Any of `image_files.DAMAGE`.
    """
    text = format_error(error)
    if isinstance(error, KeyError) and len(error.args) == 1:
        text = str(error.args[0])  # without quotes
    for pattern, description in _DESCRIPTIONS:
        if re.fullmatch(pattern, text):
            return description
    return _DAMAGED_HEADER if isinstance(error, _PROGRAM_ERRORS) else text


def describe_read_error(error: BaseException, path: Path) -> str:
    """Return a description of an error of an image reader, without the path of the image.

    Args:
        error: `DataError`, or any of `image_files.DAMAGE`.
        path: Path of the image or label map.
    """
    if not isinstance(error, DataError):
        return describe_damage(error)
    text = str(error)
    for start in (f"image {path} ", f"label map {path} ", f"{path} "):
        text = text.removeprefix(start)
    for start in ("cannot be read: ", "is not an image that can be read: "):
        text = text.removeprefix(start)
    return text
