"""Images that look alike: a perceptual hash, and a search that never compares all with all.

The hash is a difference hash (N. Krawetz, "Kind of Like That", 2013): the image is shrunk to
`SIDE` rows of `SIDE + 1` gray values, and each bit says whether a value is darker than its right
neighbor. It survives other sizes, compressions and brightness, but neither mirroring nor cropping.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.decoding import StoredImage

SIDE = 16
HASH_BYTES = SIDE * SIDE // 8
ALIKE_BITS = 12
"""Images whose hashes differ in at most this many of 256 bits look alike."""
_BANDS = 16
"""Parts of a hash. Hashes that differ in fewer bits than there are bands agree in one of them."""
_NOISE = 0.01
"""Share of an image's range by which neighbors must differ to count as different."""
_FLAT = 1e-3
"""Share of what the type can hold below which an image is of one color."""
_PAIRS_AT_ONCE = 1 << 20
_SCATTERED = np.random.default_rng(0).permutation(8 * HASH_BYTES)
_BITS = np.asarray([bin(value).count("1") for value in range(256)], np.uint8)

HashArray = NDArray[np.uint8]


def difference_hash(stored_image: StoredImage) -> HashArray | None:
    """`(HASH_BYTES,)` of an image; None where it is all of one color, which says nothing."""
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
    """Images that look like one of an earlier split.

    Hashes are cut into bands; only those that agree in a whole band are compared, and equal ones
    are looked at once. With random hashes that is a few comparisons per image.

    Args:
        hashes: `(P, HASH_BYTES)`.
        splits: `(P,)` number of each image's split, from 0.
        limit: Most bits that may differ, below the number of bands.

    Yields:
        (image, the nearest image of an earlier split, bits that differ), in rising order.
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
    # The first image of each split that has a hash, split by split.
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
    """(left, right, bits) of all different hashes that differ in at most `limit` bits."""
    if not limit < _BANDS:
        raise ValueError(f"limit must be below {_BANDS}, got {limit}")
    # Each band takes bits from all over the image: a black border is no reason to compare.
    bits_anywhere = np.unpackbits(unique, axis=1)[:, _SCATTERED]
    bands = np.packbits(bits_anywhere, axis=1).reshape(len(unique), _BANDS, -1).astype(np.int64)
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
    """All pairs of places in sorted `keys` with the same key, in portions."""
    places = np.arange(len(keys))
    distance = 1
    left = places
    while len(left):
        left = left[left + distance < len(keys)]
        left = left[keys[left] == keys[left + distance]]
        for start in range(0, len(left), _PAIRS_AT_ONCE):
            part = left[start : start + _PAIRS_AT_ONCE]
            yield part, part + distance
        distance += 1
