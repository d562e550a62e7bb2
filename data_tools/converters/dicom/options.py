"""Options of the conversion from DICOM files to images, which need no import of pydicom."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnet_tasks.data.images.image_files import open_image_file
from resnet_tasks.errors import DataError

Values = Literal["stored", "modality", "voi"] | tuple[float, float]
Group = Literal["patient", "study", "none"]

_PREAMBLE = 128


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
    """

    values: Values = "modality"
    group: Group = "patient"
    salt: str = ""
    longest_side: int | None = None

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
    """Return whether a file has the preamble of DICOM."""
    try:
        with open_image_file(path) as stream:  # `Path.open` would wait for a writer of a FIFO
            return stream.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except (DataError, OSError):
        return False
