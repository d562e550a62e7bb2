"""Errors of pydicom as one sentence that names the file, and suppression of its warnings."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.uid import UID

from resnet_tasks.errors import DataError, format_error

DECODER_ERRORS = (
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
)
"""Exceptions that pydicom and its decoders raise for damaged files."""


class IgnoreWarnings(warnings.catch_warnings):
    """Context that ignores pydicom's warnings about slightly invalid elements, which are common."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


@contextmanager
def convert_errors(path: Path) -> Iterator[None]:
    """Convert exceptions of the readers to a `DataError` that names the file.

    Raises:
        DataError: If the block raises one of `DECODER_ERRORS`.
    """
    try:
        yield
    except DataError:
        raise
    except DECODER_ERRORS as error:
        raise DataError(f"the DICOM file {path} cannot be read: {format_error(error)}") from None


def format_uid(uid: UID) -> str:
    """Return the name of a UID on one line, even if a damaged file has line breaks in it."""
    return " ".join(uid.name.split())
