"""Sample keys with epoch, scale and visit, and the seeds of samples."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class SampleKey(NamedTuple):
    """Key of a sample in a training epoch.

    The randomness of augmentation depends on the epoch and on the visit.

    Attributes:
        epoch: Epoch, from 0.
        position: Position in the dataset.
        scale: Scale relative to the prepared size.
        visit: Number of earlier occurrences of the sample in the epoch.
    """

    epoch: int
    position: int
    scale: float = 1.0
    visit: int = 0


Key = int | tuple[int, int] | tuple[int, int, float] | tuple[int, int, float, int]
"""Position of a sample, or the leading fields of a `SampleKey`."""


def unpack_key(key: Key) -> SampleKey:
    """Return all fields of a key; a position alone is a key of epoch 0."""
    return SampleKey(0, key) if isinstance(key, int) else SampleKey(*key)


def derive_sample_seed(seed: int, epoch: int, image_id: int | str) -> int:
    """Return a 63-bit seed that depends only on the run's seed, the epoch and the image."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{image_id!r}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
