"""Search for similar images by a perceptual hash, without comparing all pairs.

The hash is a difference hash (N. Krawetz, "Kind of Like That", 2013): the image is resized to
`SIDE` rows of `SIDE + 1` gray values, and each bit is set if a value is darker than its right
neighbor. The hash is robust to changes of size, compression and brightness, but not to mirroring or
cropping.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.channels import StoredImage

SIDE = 16
HASH_BYTES = SIDE * SIDE // 8
ALIKE_BITS = 12
"""Largest number of the 256 bits in which the hashes of similar images differ."""
_BANDS = 16
"""Number of parts of a hash. Hashes that differ in fewer bits than this agree in at least one
band."""
_NOISE = 0.01
"""Fraction of the value range of an image by which neighbors must differ to count as different."""
_FLAT = 1e-3
"""Fraction of the range of the data type below which an image counts as a single color."""
_PAIRS_AT_ONCE = 1 << 20
_SCATTERED = np.random.default_rng(0).permutation(8 * HASH_BYTES)
_BITS = np.asarray([bin(value).count("1") for value in range(256)], np.uint8)

HashArray = NDArray[np.uint8]


def difference_hash(stored_image: StoredImage) -> HashArray | None:
    """Return the `(HASH_BYTES,)` uint8 hash of an image, or None if it has a single color.

    The hash of a single color would match that of any other such image.
    """
    pixels = stored_image.pixels
    if "alpha" in stored_image.layout:
        pixels = pixels[:, :, :-1]
    pixels = pixels[:, :, :3]
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        pixels = pixels.astype(np.float32)
    small = cv2.resize(
        np.ascontiguousarray(pixels), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA
    ).astype(np.float64)
    gray = small if small.ndim == 2 else small.mean(axis=2)
    gray = np.nan_to_num(gray, posinf=0, neginf=0)
    spread = float(gray.max() - gray.min())
    most = float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind == "u" else float(gray.max())
    if spread <= _FLAT * max(abs(most), 1e-12):
        return None
    return np.packbits((gray[:, 1:] - gray[:, :-1] > _NOISE * spread).ravel())


def find_near_duplicates(
    hashes: HashArray, splits: NDArray[np.integer], *, limit: int = ALIKE_BITS
) -> Iterator[tuple[int, int, int]]:
    """Yield the images that look like an image of an earlier split.

    Hashes are cut into bands. Only hashes that agree in a whole band are compared, and equal hashes
    are compared once. With random hashes that is a few comparisons per image.

    Args:
        hashes: `(P, HASH_BYTES)` uint8 hashes.
        splits: `(P,)` number of each image's split, from 0.
        limit: Largest number of different bits, below the number of bands.

    Yields:
        (image, most similar image of an earlier split, number of different bits), in ascending
        order of the image.
    """
    if not len(hashes):
        return
    unique, inverse = np.unique(hashes, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    members = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[members], np.arange(len(unique) + 1))
    alike: dict[int, list[tuple[int, int]]] = {}
    for left, right, bits in _find_close_pairs(unique, limit):
        alike.setdefault(left, []).append((bits, right))
        alike.setdefault(right, []).append((bits, left))
    # For each unique hash, the first image of each split that has it.
    firsts = [
        _find_first_by_split(members[starts[i] : starts[i + 1]], splits) for i in range(len(unique))
    ]
    for image, split in enumerate(splits.tolist()):
        own = int(inverse[image])
        candidates = [
            (bits, other)
            for bits, hash_index in [(0, own), *alike.get(own, ())]
            for of_split, other in firsts[hash_index].items()
            if of_split < split
        ]
        if candidates:
            bits, other = min(candidates)
            yield image, other, bits


def _find_first_by_split(images: NDArray[np.intp], splits: NDArray[np.integer]) -> dict[int, int]:
    first_by_split: dict[int, int] = {}
    for image in images.tolist():
        first_by_split.setdefault(int(splits[image]), image)
    return first_by_split


def _find_close_pairs(unique: HashArray, limit: int) -> list[tuple[int, int, int]]:
    """Return (left, right, bits) of all unique hashes that differ in at most `limit` bits."""
    if not limit < _BANDS:
        raise ValueError(f"limit must be below {_BANDS}, got {limit}")
    # Each band has bits from all over the image, so that a common black border does not make
    # two hashes agree in a band.
    bits_anywhere = np.unpackbits(unique, axis=1)[:, _SCATTERED]
    bands = np.packbits(bits_anywhere, axis=1).reshape(len(unique), _BANDS, -1).astype(np.int64)
    # One integer per band, so that equal bands are found by sorting.
    keys = bands @ (256 ** np.arange(bands.shape[2]))
    distances: dict[tuple[int, int], int] = {}
    for band in range(_BANDS):
        order = np.argsort(keys[:, band], kind="stable")
        for left, right in _iter_equal_pairs(keys[order, band]):
            a, b = order[left], order[right]
            bits = _BITS[unique[a] ^ unique[b]].sum(axis=1, dtype=np.int64)
            near = np.flatnonzero(bits <= limit)
            for i in near.tolist():
                pair = (int(min(a[i], b[i])), int(max(a[i], b[i])))
                distances[pair] = int(bits[i])
    return [(left, right, bits) for (left, right), bits in sorted(distances.items())]


def _iter_equal_pairs(
    keys: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield all pairs of positions in sorted `keys` with equal keys, in chunks."""
    places = np.arange(len(keys))
    distance = 1
    left = places
    while len(left):
        # A position without an equal key at this distance has none at a greater one, since keys are
        # sorted.
        left = left[left + distance < len(keys)]
        left = left[keys[left] == keys[left + distance]]
        for start in range(0, len(left), _PAIRS_AT_ONCE):
            part = left[start : start + _PAIRS_AT_ONCE]
            yield part, part + distance
        distance += 1
