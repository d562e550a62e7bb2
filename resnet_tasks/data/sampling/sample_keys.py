"""How samples are asked for: keys that name the epoch, the scale and the visit, and their seeds."""

from __future__ import annotations

import hashlib

Key = int | tuple[int, int] | tuple[int, int, float] | tuple[int, int, float, int]
"""Position of an image, or (epoch, position), or (epoch, position, scale), or (epoch, position,
scale, visit): the epoch moves the randomness of augmentation, and so does how often the image has
come before in the epoch; the scale is relative to the prepared size."""


def unpack_key(key: Key) -> tuple[int, int, float, int]:
    """(epoch, position, scale, visit) of a key."""
    if isinstance(key, int):
        return (0, key, 1.0, 0)
    return (key[0], key[1], key[2] if len(key) >= 3 else 1.0, key[3] if len(key) == 4 else 0)


def derive_sample_seed(seed: int, epoch: int, image_id: int | str) -> int:
    """A 63-bit seed that depends on the run's seed, the epoch and the image only."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{image_id!r}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
