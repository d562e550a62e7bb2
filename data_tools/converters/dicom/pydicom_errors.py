"""Errors and warnings of pydicom and its decoders, as one sentence that names the file."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.uid import UID

from resnet_tasks.errors import DataError

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
"""What pydicom and its decoders raise on files that are damaged."""


class IgnoreWarnings(warnings.catch_warnings):
    """Context that ignores pydicom's warnings on slightly invalid elements: they are common."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


@contextmanager
def convert_errors(path: Path) -> Iterator[None]:
    """Convert what readers raise to one sentence that names the file."""
    try:
        yield
    except DataError:
        raise
    except DECODER_ERRORS as error:
        raise DataError(f"the DICOM file {path} cannot be read: {format_error(error)}") from None


def format_error(error: BaseException) -> str:
    """Return the message of an error on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def format_uid(uid: UID) -> str:
    """Return the name of a UID on one line, whatever a damaged file has there."""
    return " ".join(uid.name.split())
