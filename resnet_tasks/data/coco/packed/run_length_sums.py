"""Sums of the compressed run lengths of many masks at once.

See `structures.run_lengths.decode_counts` for the encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_CHUNK_BYTES = 1 << 17
"""Bytes of compressed counts that are decoded at a time, so that all columns stay in the cache."""
_MAX_GROUPS = 6
"""Largest number of 5-bit groups of one count that is decoded in bulk, for 32-bit integers."""


def sum_counts(counts: Sequence[str]) -> tuple[Ints, Ints] | None:
    """Sum the run lengths of many masks at once.

    Args:
        counts: Compressed run lengths of N masks.

    Returns:
        `(N,)` sums of all runs and `(N,)` sums of the runs of object pixels, as `decode_counts`
        reads them. None if some counts may be malformed.
    """
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    if not lengths.all():
        return None
    ends = np.cumsum(lengths)
    sums = np.zeros((2, len(counts)), np.int64)
    first, start = 0, 0
    while first < len(counts):
        last = max(first + 1, int(np.searchsorted(ends, start + _CHUNK_BYTES, side="right")))
        text = "".join(counts[first:last])
        if not text.isascii():
            return None
        bytes_of_masks = np.frombuffer(text.encode("ascii"), np.uint8)
        chunk_sums = _sum_chunk(bytes_of_masks, ends[first:last] - start)
        if chunk_sums is None:
            return None
        sums[:, first:last] = chunk_sums
        first, start = last, int(ends[last - 1])
    return sums[0], sums[1]


def _sum_chunk(text: NDArray[np.uint8], ends: Ints) -> tuple[Ints, Ints] | None:
    """Return the sums of `sum_counts`.

    Args:
        text: Counts of the masks in turn.
        ends: `(N,)` position after the last byte of each mask.
    """
    decoded = _decode_differences(text, ends)
    if decoded is None:
        return None
    differences, bounds = decoded
    first_runs = differences[bounds[:-1]].astype(np.int64)
    if first_runs.min() < 0:
        return None
    # The first run is not the base of any difference.
    differences[bounds[:-1]] = 0
    sums = []
    for parity in (0, 1):
        # Every second count belongs to the same sum of differences.
        totals = _accumulate(differences[parity::2])
        starts = (bounds + 1 - parity) // 2
        runs = totals[1:] - np.repeat(totals[starts[:-1]], np.diff(starts))
        if runs.min(initial=0) < 0:
            return None
        sums.append(np.diff(_accumulate(runs)[starts]))
    object_sums = np.where(bounds[:-1] % 2 == 0, sums[1], sums[0])
    return first_runs + sums[0] + sums[1], object_sums


def _accumulate(numbers: NDArray[Any]) -> Ints:
    """Return 0 and the running sums of numbers."""
    totals = np.zeros(len(numbers) + 1, np.int64)
    np.cumsum(numbers, out=totals[1:])
    return totals


def _decode_differences(
    text: NDArray[np.uint8], ends: Ints
) -> tuple[NDArray[np.int32], Ints] | None:
    """Decode compressed counts to the numbers that they store.

    Args:
        text: Counts of the masks in turn.
        ends: `(N,)` position after the last byte of each mask.

    Returns:
        Runs or differences of all masks in turn, and the `(N + 1,)` bounds of the masks among them.
        None if some counts may be malformed.
    """
    groups = text - np.uint8(48)
    is_last = groups < 32
    if groups.max() > 63 or not is_last[ends - 1].all():
        return None
    # The highest bit of the last group is the sign.
    differences = ((groups[is_last] ^ 16) - np.uint8(16)).view(np.int8).astype(np.int32)
    # Most numbers have one group. The others are found by their groups before the last one.
    positions = np.flatnonzero(~is_last)
    owners = positions - np.arange(len(positions))
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    rows, numbers = owners[firsts], np.diff(firsts, append=len(owners))
    if numbers.max(initial=0) >= _MAX_GROUPS:
        return None
    lasts = positions[firsts] + numbers
    place = 1
    while len(rows):
        differences[rows] = (differences[rows] << 5) | (groups[lasts - place] & 31)
        is_longer = numbers > place
        rows, lasts, numbers = rows[is_longer], lasts[is_longer], numbers[is_longer]
        place += 1
    return differences, np.append(0, ends - np.searchsorted(positions, ends))
