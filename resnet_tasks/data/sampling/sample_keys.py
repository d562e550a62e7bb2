"""Sample keys with epoch, scale and visit, and the seeds of samples."""

from __future__ import annotations

import hashlib

SampleKey = tuple[int, int, float, int]
"""(epoch, position, scale, visit) of a sample in a training epoch. The randomness of augmentation
depends on the epoch and on the visit, the number of earlier occurrences of the image in the epoch.
The scale is relative to the prepared size."""

Key = int | tuple[int, int] | tuple[int, int, float] | SampleKey
"""Position of a sample, or the leading values of a `SampleKey`."""


def unpack_key(key: Key) -> SampleKey:
    """Return (epoch, position, scale, visit) of a key."""
    if isinstance(key, int):
        return (0, key, 1.0, 0)
    return (key[0], key[1], key[2] if len(key) >= 3 else 1.0, key[3] if len(key) == 4 else 0)


def derive_sample_seed(seed: int, epoch: int, image_id: int | str, visit: int = 0) -> int:
    """Return a 63-bit seed that depends only on the run's seed, the epoch, the image and the visit.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        image_id: Id of the image, or a name of something else that needs a seed.
        visit: Number of earlier occurrences of the image in the epoch.
    """
    name = f"{seed}/{epoch}/{image_id!r}" + (f"/{visit}" if visit else "")
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
