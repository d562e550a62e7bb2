"""Errors of pydicom as one sentence that names the file, and suppression of its warnings."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.uid import UID

from resnet_tasks.errors import DataError, format_error, format_list

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
_NUMBERS = frozenset(("IS", "DS", "US", "SS", "UL", "SL", "FL", "FD"))
"""Value representations of numbers."""
_SAFE_STARTS = ("The number of bytes of ", "The length of the pixel data ")
"""Starts of messages of pydicom that state numbers of bytes."""


class IgnoreWarnings(warnings.catch_warnings):
    """Context that ignores pydicom's warnings about slightly invalid elements, which are common."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


class HeaderError(ValueError):
    """Fault of a header, with a message that quotes no value of it."""


_WITHOUT_VALUES = (
    HeaderError,
    AttributeError,
    OSError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    pydicom.errors.InvalidDicomError,
)
"""Exceptions whose messages have names of types, numbers of bytes and fixed texts only."""


@contextmanager
def convert_errors(path: Path) -> Iterator[None]:
    """Convert exceptions of the readers to a `DataError` that names the file.

    Values of elements are never quoted, because they may identify the patient: a damaged header can
    have the name or the date of birth in any element.

    Raises:
        DataError: If the block raises one of `DECODER_ERRORS`.
    """
    try:
        yield
    except DataError:
        raise
    except DECODER_ERRORS as error:
        raise DataError(
            f"the DICOM file {path} cannot be read: {_describe_error(error, path)}"
        ) from None


def _describe_error(error: BaseException, path: Path) -> str:
    """Describe an exception; of those that may quote a value, name only the damaged elements."""
    text = format_error(error)
    if isinstance(error, _WITHOUT_VALUES) or text.startswith(_SAFE_STARTS):
        return text
    keywords = _find_damaged_elements(path)
    if keywords:
        return f"the values of these elements are invalid: {format_list(keywords)}"
    return f"its content is damaged ({type(error).__name__})"


def _find_damaged_elements(path: Path) -> list[str]:
    """Return the keywords or tags of the elements whose values pydicom cannot convert."""
    keywords = []
    with IgnoreWarnings():  # they quote values, too
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        except DECODER_ERRORS:
            return []
        for tag in tuple(header.keys()):
            try:
                value = header[tag].value
                if dictionary_has_tag(tag) and _NUMBERS & {*dictionary_VR(tag).split(" or ")}:
                    np.asarray(value or 0, np.float64)  # pydicom leaves other texts as they are
            except DECODER_ERRORS:
                keywords.append(keyword_for_tag(tag) or str(tag))
    return keywords


def format_uid(uid: UID) -> str:
    """Return the registered name of a UID; others are not quoted, like all values of a header."""
    return uid.name if uid.name != str(uid) else "an unregistered UID"
