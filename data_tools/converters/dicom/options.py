"""Options of the conversion from DICOM files to images, which need no import of pydicom."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from resnet_tasks.data.images.image_files import open_image_file
from resnet_tasks.errors import DataError

Values = Literal["stored", "modality", "voi"] | tuple[float, float]
Group = Literal["patient", "study", "none"]
Padding = Literal["darkest", "keep"]

_PREAMBLE = 128
_MAGIC = b"DICM"
_FIRST_GROUPS = (0x0002, 0x0008, 0x0010)
"""Groups of the first element of a file without preamble: file meta information, identity, or the
patient in files from which the identity was removed."""
_SECOND_GROUPS = (*_FIRST_GROUPS, 0x0018, 0x0020, 0x0028)
"""Groups of the second element: further ones of the acquisition, the series and the image."""
_MAX_FIRST_LENGTH = 1024
"""Maximum length of the first element of a file without preamble, in bytes."""
_LONG_VRS = (b"OB", b"OW", b"UN", b"UT", b"SQ", b"UC", b"UR")
"""Value representations whose length takes four bytes in explicit encodings."""


@dataclass(frozen=True)
class DicomOptions:
    """Options of the conversion from DICOM files to images.

    Attributes:
        values: Values of gray images. `modality`: values after the modality LUT or rescale (HU in
            CT), without clipping. `stored`: values as in the file. `voi`: values after the file's
            first VOI LUT or window, 0..65535. A pair (level, width): `level - width/2` becomes 0
            and `level + width/2` becomes 65535.
        group: Unit that splits must keep together; `patient` falls back to the study if the file
            states no patient.
        salt: Secret that is mixed into the hashes of ids. Without a salt, anyone who guesses an id
            can verify the guess.
        longest_side: Maximum height and width in pixels; larger images are shrunk by area
            averaging. None for no limit.
        padding: Treatment of pixels that hold the file's padding value, which are no measurements.
            `darkest` gives them the darkest value of the other pixels; `keep` leaves them.
    """

    values: Values = "modality"
    group: Group = "patient"
    salt: str = ""
    longest_side: int | None = None
    padding: Padding = "darkest"

    def __post_init__(self) -> None:
        if isinstance(self.values, tuple) and not (
            all(map(math.isfinite, self.values)) and self.values[1] > 0
        ):
            raise DataError(
                f"values is {self.values}; level and width must be numbers, with width above 0"
            )
        if self.longest_side is not None and self.longest_side < 1:
            raise DataError(f"longest_side is {self.longest_side}; it must be 1 or more")

    def hash_identity(self, kind: str, identity: str) -> str:
        """Return 16 hexadecimal digits that replace an id and depend only on the id and the salt.

        Args:
            kind: Kind of id; equal ids of different kinds have different hashes.
            identity: Id to replace.
        """
        text = f"{kind}\0{identity}".encode()
        return hashlib.blake2b(text, digest_size=8, key=self.salt.encode()[:64]).hexdigest()


def is_dicom(path: Path) -> bool:
    """Return whether a file has the preamble of DICOM, or DICOM elements without it."""
    return _has_preamble(_read_head(path)) or find_bare_elements(path) is not None


def find_bare_elements(path: Path) -> int | None:
    """Return the offset of the DICOM elements in a file without a complete preamble, else None.

    The preamble is 128 bytes and `DICM`. A file may lack both, or either of them.
    """
    head = _read_head(path)
    if _has_preamble(head):
        return None
    offsets = (0, _PREAMBLE, len(_MAGIC)) if head.startswith(_MAGIC) else (0, _PREAMBLE)
    return next((offset for offset in offsets if _starts_with_elements(head[offset:])), None)


def _has_preamble(head: bytes) -> bool:
    return head[_PREAMBLE:].startswith(_MAGIC)


def _read_head(path: Path) -> bytes:
    try:
        with open_image_file(path) as stream:  # `Path.open` would wait for a writer of a FIFO
            return stream.read(_PREAMBLE + _MAX_FIRST_LENGTH + 32)
    except (DataError, OSError):
        return b""


def _starts_with_elements(head: bytes) -> bool:
    """Return whether bytes are two consecutive elements in ascending order, of either byte order.

    The file meta information is always little-endian, so that a file with it is, too, up to there.
    """
    return any(_starts_with_ordered_elements(head, order) for order in "<>")


def _starts_with_ordered_elements(head: bytes, order: str) -> bool:
    first = _parse_element(head, order)
    if first is None or first.group not in _FIRST_GROUPS or first.end > _MAX_FIRST_LENGTH:
        return False
    second = _parse_element(head[first.end :], order)
    return second is not None and (
        (first.group, first.element) < (second.group, second.element)
        and second.group in _SECOND_GROUPS
    )


class _ElementHead(NamedTuple):
    """Tag of a data element, and the offset of the next element."""

    group: int
    element: int
    end: int


def _parse_element(data: bytes, order: str) -> _ElementHead | None:
    """Parse the start of an element with explicit or implicit value representation."""
    if len(data) < 12:
        return None
    group, element = struct.unpack(f"{order}HH", data[:4])
    representation = data[4:6]
    if not (representation.isalpha() and representation.isupper()):
        return _ElementHead(group, element, 8 + struct.unpack(f"{order}I", data[4:8])[0])
    if representation in _LONG_VRS:
        return _ElementHead(group, element, 12 + struct.unpack(f"{order}I", data[8:12])[0])
    return _ElementHead(group, element, 8 + struct.unpack(f"{order}H", data[6:8])[0])
