"""How DICOM files become images: the choices, which cost no import of pydicom."""

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
    """How DICOM files become images.

    Attributes:
        values: Of gray images. `modality`: in the units of the modality LUT or rescale (HU in
            CT), nothing cut off; `stored`: as in the file; `voi`: through the file's first VOI LUT
            or window, 0..65535; a pair (level, width): `level - width/2` becomes 0, `level +
            width/2` 65535.
        group: What splits must not cut through; `patient` falls back to the study where the file
            names no patient.
        salt: Secret that is mixed into the hashes of ids. Without one, whoever can guess an id can
            check the guess.
        longest_side: Larger images are shrunk to it, by area.
    """

    values: Values = "modality"
    group: Group = "patient"
    salt: str = ""
    longest_side: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.values, tuple) and not (
            all(map(math.isfinite, self.values)) and self.values[1] > 0
        ):
            raise DataError(f"values is {self.values}; level and width are numbers, width above 0")
        if self.longest_side is not None and self.longest_side < 1:
            raise DataError(f"longest_side is {self.longest_side}; it must be 1 or more")

    def hash_identity(self, kind: str, identity: str) -> str:
        """16 hexadecimal digits that stand for an id, the same for the same salt."""
        text = f"{kind}\0{identity}".encode()
        return hashlib.blake2b(text, digest_size=8, key=self.salt.encode()[:64]).hexdigest()


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's preamble."""
    try:
        with open_image_file(path) as stream:  # a FIFO would wait for a writer
            return stream.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except (DataError, OSError):
        return False
