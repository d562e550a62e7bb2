"""Precision of one class at COCO's recall levels, in many resampled datasets at once.

COCO's precision at a recall level is the maximum precision at any higher recall. Precision
decreases between hits, and it does not decrease from one hit to the next if no false positive lies
between them. Whatever the weights of the images, it is therefore enough to compute it at the end of
every run of hits without a false positive in between.

Detections are processed in blocks, from the lowest score to the highest, so that memory does not
grow with their number. All cells (a threshold and a size class) advance together.

Shape glossary: `R` resampled datasets, `P` images, `T` overlap thresholds, `S` size classes, `D`
detections of one class, `C` those that overlap an object, `Q` sequences, `N` rows of sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.matching import SIZE_RANGES, THRESHOLDS
from resnet_tasks.evaluation.coco.row_sequences import RowSequences

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Weights = NDArray[np.floating[Any]]
"""Numbers of times that images occur, or sums of them: integers, as floats."""

RECALLS = np.linspace(0, 1, 101)
"""COCO's recall levels, the same floats as in pycocotools."""
NUM_SIZES = len(SIZE_RANGES)
NUM_CELLS = len(THRESHOLDS) * NUM_SIZES
ROWS_AT_ONCE = 512
"""Number of ends of runs per block. Its arrays should fit into the cache of the processor."""


@dataclass(frozen=True)
class _Entries:
    """Detections in sequences.

    Attributes:
        keys: `(N,)` the stride times the sequence, plus the position of the detection.
        images: `(N,)` image of each detection.
        signs: `(N,)` 1, or -1 where the detection is subtracted.
    """

    keys: Ints
    images: Ints
    signs: Floats

    def select(self, chosen: Ints | Bools) -> _Entries:
        """Return some of the detections."""
        return _Entries(self.keys[chosen], self.images[chosen], self.signs[chosen])


class PrecisionCurves:
    """Curves of one class in all cells.

    Three kinds of sequences of sums are needed: the hits of every cell, the corrections of every
    cell, and the detections in every size class. Precision is hits / (in size class + corrections):
    matched detections in the size class are not counted unless they are hits (correction -1), and
    hits are counted even if they are not in the size class (correction 1).

    Args:
        is_hit: `(C, T, S)`.
        is_matched: `(C, T, S)`; hits, and detections of objects that are not counted.
        images: `(D,)` image of each detection, in descending order of score.
        in_range: `(D, S)`, whether each detection is in the size class.
        candidates: `(C,)` indices into the detections.
        num_images: Number of images, `P`.
    """

    def __init__(
        self,
        is_hit: Bools,
        is_matched: Bools,
        images: Ints,
        in_range: Bools,
        candidates: Ints,
        num_images: int,
    ) -> None:
        self._num_images = num_images
        # A detection's position is the number of the next candidate.
        self._stride = stride = len(candidates) + 1
        is_matched = is_matched & in_range[candidates, None]
        num_false = np.cumsum(in_range, axis=0)[candidates, None] - is_matched.cumsum(axis=0)
        hit_keys, hits = self._list_keys(is_hit)
        # A run ends where the next hit of the cell has another number of false positives before it.
        num_false = num_false.reshape(-1, NUM_CELLS)[hits, hit_keys // stride]
        is_end = np.diff(hit_keys // stride * (len(images) + 1) + num_false, append=-1) != 0
        correction_keys, corrected = self._list_keys(is_hit != is_matched)
        signs = np.where(
            is_hit.reshape(-1, NUM_CELLS)[corrected, correction_keys // stride], 1.0, -1.0
        )
        sizes, members = np.nonzero(in_range.T)
        member_keys = sizes * stride + np.searchsorted(candidates, members)
        offsets = np.array((0, NUM_CELLS, 2 * NUM_CELLS)) * stride
        entries = _Entries(
            np.concatenate((hit_keys, correction_keys + offsets[1], member_keys + offsets[2])),
            images[np.concatenate((candidates[hits], candidates[corrected], members))],
            np.concatenate((np.ones(len(hits)), signs, np.ones(len(sizes)))),
        )
        ends = hit_keys[is_end]
        ends_of_corrections = ends[_find_next(ends, correction_keys, stride)[1]]
        ends_by_size = ends // stride % NUM_SIZES * stride + ends % stride
        rows = (ends, np.unique(ends_of_corrections), np.unique(ends_by_size))
        self._build_blocks(
            np.concatenate([keys + offset for keys, offset in zip(rows, offsets, strict=True)]),
            entries,
        )

    def _list_keys(self, flags: Bools) -> tuple[Ints, Ints]:
        """Return the keys and candidates of flags `(C, T, S)` that are set, by ascending key."""
        cells, candidates = list_by_cell(flags)
        return cells * self._stride + candidates, candidates

    def _build_blocks(self, rows: Ints, entries: _Entries) -> None:
        """Divide the sequences into blocks.

        Args:
            rows: `(N,)` ascending keys of the rows. A row sums the detections since the previous
                row of its sequence.
            entries: Detections; those after the last row of their sequence are not needed.
        """
        is_used, own_rows = _find_next(rows, entries.keys, self._stride)
        entries = entries.select(is_used)
        numbers, sequences = np.unique(rows // self._stride, return_inverse=True)
        positions = rows % self._stride
        self._cells = numbers[numbers < NUM_CELLS]
        self._sizes = self._cells % NUM_SIZES
        links = (
            _find_equal(numbers, self._cells + NUM_CELLS),
            _find_equal(numbers, self._sizes + 2 * NUM_CELLS),
        )
        self._sums = build_sums(
            sequences[own_rows], entries.images, (len(numbers), self._num_images), entries.signs
        )
        limits = np.sort(positions[: np.searchsorted(sequences, len(self._cells))])
        blocks = np.searchsorted(limits[ROWS_AT_ONCE::ROWS_AT_ONCE], positions, side="right")
        keys = sequences * self._stride + positions
        order = np.argsort(blocks[own_rows], kind="stable")
        num_blocks = 1 + int(blocks.max(initial=0))
        starts = np.searchsorted(blocks[own_rows][order], np.arange(1, num_blocks))
        self._blocks = [
            _Block(
                keys[blocks == number],
                self._stride,
                links,
                _Entries(keys[own_rows[chosen]], entries.images[chosen], entries.signs[chosen]),
                self._sums.shape,
            )
            for number, chosen in enumerate(np.split(order, starts))
        ]

    def compute_precision(self, weights: Weights, total: Floats) -> Floats:
        """Compute the average precision of all cells.

        Args:
            weights: `(P, R)` number of times each image occurs.
            total: `(S, R)` number of objects, at least 1.

        Returns:
            `(T, S, R)`.
        """
        precision = np.zeros((NUM_CELLS, weights.shape[1]))
        sums = self._sums @ weights
        highest, summed = np.zeros((2, len(self._cells), weights.shape[1]))
        for block in reversed(self._blocks):
            sums, highest, added = block.compute(weights, total[self._sizes], sums, highest)
            summed += added
        # The lowest recall level, 0, is always reached.
        precision[self._cells] = (summed + highest) / len(RECALLS)
        return precision.reshape(len(THRESHOLDS), NUM_SIZES, -1)


class _Block:
    """Rows of the sequences of one class between two scores.

    Every sequence has one more row at its end, for the sum up to the end of the block. Cells are
    the first sequences.

    Args:
        rows: `(N,)` ascending keys of the rows.
        stride: Number of positions.
        links: For each cell, the sequence of its corrections and that of the detections in its size
            class; -1 if there is none.
        entries: Detections of the rows, each with the key of its row.
        shape: Number of sequences, `Q`, and number of images, `P`.
    """

    def __init__(
        self,
        rows: Ints,
        stride: int,
        links: tuple[Ints, Ints],
        entries: _Entries,
        shape: tuple[int, int],
    ) -> None:
        num_sequences, num_images = shape
        self._keys = np.sort(np.append(rows, np.arange(1, num_sequences + 1) * stride - 1))
        self._rows = RowSequences(self._keys // stride)
        self._sums = build_sums(
            self._rows.places[np.searchsorted(self._keys, entries.keys)],
            entries.images,
            (len(self._keys) + 1, num_images),
            entries.signs,
        )
        runs = self._keys[: np.searchsorted(self._keys, len(links[0]) * stride)]
        self._runs = RowSequences(runs // stride)
        self._hit_rows = self._rows.places[self._runs.order]
        cells, positions = np.divmod(runs[self._runs.order], stride)
        self._correction_rows, self._in_range_rows = (
            self._find_following_rows(link[cells], np.minimum(positions, stride - 2), stride)
            for link in links
        )

    def _find_following_rows(self, sequences: Ints, positions: Ints, stride: int) -> Ints:
        """Find the row after a position, which begins with the sum up to that position.

        Returns:
            Places of the rows; that of an additional row of zeros for sequence -1.
        """
        rows = np.searchsorted(self._keys, sequences * stride + positions, side="right")
        return np.where(sequences < 0, len(self._keys), self._rows.places[rows])

    def compute(
        self, weights: Weights, total: Floats, sums: Weights, highest: Floats
    ) -> tuple[Weights, Floats, Floats]:
        """Compute what the block contributes to average precision.

        Args:
            weights: `(P, R)` number of times each image occurs.
            total: `(cells, R)` number of objects, at least 1.
            sums: `(Q, R)` sum of every sequence up to the end of the block.
            highest: `(cells, R)` highest precision in the following blocks.

        Returns:
            `sums` up to the beginning of the block, `highest` from the beginning of the block on,
            and the sum of precision over the recall levels that are reached in the block.
        """
        rows = self._sums @ weights
        rows[self._rows.last] = sums
        self._rows.accumulate_backward(np.subtract, rows)
        # A row now has the sum before its first detection.
        num_hits = rows[self._hit_rows].astype(np.float64)
        num_detections = rows[self._in_range_rows]
        num_detections += rows[self._correction_rows]
        np.maximum(num_detections, 1, out=num_detections)
        precision = num_detections.astype(np.float64)
        self._runs.combine_with_next(np.divide, num_hits, precision)
        precision[self._runs.last] = highest
        self._runs.accumulate_backward(np.maximum, precision)
        highest = precision[self._runs.first]
        self._runs.divide(num_hits, total)
        levels = _count_levels_reached(num_hits)
        self._runs.combine_with_next(np.subtract, levels, levels)
        levels[self._runs.last] = 0
        precision *= levels
        self._runs.accumulate_backward(np.add, precision)
        return rows[self._rows.first], highest, precision[self._runs.first]


def list_by_cell(flags: Bools) -> tuple[Ints, Ints]:
    """Return the cells and candidates of flags `(C, T, S)` that are set, in this order."""
    cells, candidates = np.nonzero(flags.reshape(len(flags), NUM_CELLS).T)
    return cells, candidates


def build_sums(
    rows: Ints, images: Ints, shape: tuple[int, int], signs: Floats | None = None
) -> Any:
    """Build the sparse matrix whose product with weights `(P, R)` sums the images of each row.

    Args:
        rows: `(N,)` row of each entry.
        images: `(N,)` image of each entry.
        shape: Number of rows, and number of images, `P`.
        signs: `(N,)` 1 or -1; default: 1.
    """
    import scipy  # noqa: PLC0415 - 10 ms, and only resampling needs it

    entries = np.ones(len(rows), np.float32) if signs is None else signs.astype(np.float32)
    return scipy.sparse.csr_array((entries, (rows, images)), shape)


def _find_next(rows: Ints, keys: Ints, stride: int) -> tuple[Bools, Ints]:
    """Find for each key the first row at or after it in the same sequence.

    Args:
        rows: `(E,)` ascending keys of the rows.
        keys: `(N,)` keys.
        stride: Number of positions.

    Returns:
        `(N,)` whether there is such a row, and the indices of those rows that were found.
    """
    found = np.searchsorted(rows, keys)
    is_found = np.append(rows // stride, -1)[found] == keys // stride
    return is_found, found[is_found]


def _find_equal(numbers: Ints, wanted: Ints) -> Ints:
    """Return the index of each wanted number among ascending numbers, -1 if it is not there."""
    found = np.searchsorted(numbers, wanted)
    return np.where(np.append(numbers, -1)[found] == wanted, found, -1)


def _count_levels_reached(recall: Floats) -> Floats:
    """Count COCO's recall levels at or below each recall, by exact comparison."""
    # Rounding may put a recall just below its level, where truncation would lose the level.
    # The offset selects the upper level, which the comparison then confirms.
    levels = recall * 100
    levels += 1e-6
    np.floor(levels, out=levels)
    is_reached = levels * 0.01 <= recall  # `levels * 0.01` equals `RECALLS` to the last bit.
    levels += is_reached
    return levels
