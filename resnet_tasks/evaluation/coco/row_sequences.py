"""Sums and maxima along several sequences of rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]


class RowSequences:
    """Arrangement of the rows of several sequences in one array.

    The first rows of all sequences come first, then all second rows, and so on, each time in
    descending order of the sequences' lengths. One step along all sequences at once is then an
    operation on two ranges of adjacent rows.

    Args:
        sequences: `(N,)` sequence of each row, ascending; every number up to the last one occurs.

    Attributes:
        places: `(N,)` place of each row in the array.
        order: `(N,)` row at each place.
        first: `(Q,)` place of the first row of each of the `Q` sequences.
        last: `(Q,)` place of the last row of each sequence.
        by_length: `(Q,)` sequences in descending order of their lengths.
    """

    def __init__(self, sequences: NDArray[np.int64]) -> None:
        lengths = np.bincount(sequences)
        ends = np.cumsum(lengths)
        position = np.arange(len(sequences)) - (ends - lengths)[sequences]
        self.order = np.lexsort((-lengths[sequences], position))
        self.places = np.empty_like(self.order)
        self.places[self.order] = np.arange(len(sequences))
        self.first, self.last = self.places[ends - lengths], self.places[ends - 1]
        self.by_length = sequences[self.order[: len(lengths)]]
        widths = np.bincount(position).tolist()
        starts = [0, *np.cumsum(widths).tolist()]
        self._positions = [
            (slice(start, start + width), slice(width))
            for start, width in zip(starts, widths, strict=False)
        ]
        self._steps = [
            (slice(here, here + width), slice(following, following + width))
            for here, following, width in zip(starts, starts[1:], widths[1:], strict=False)
        ]

    def accumulate_backward(self, function: np.ufunc, values: Values) -> None:
        """Replace every row but the last of a sequence by `function` of the next row and itself.

        Args:
            function: Function of two rows.
            values: `(N, R)`, by place. The next row was already replaced.
        """
        for here, following in reversed(self._steps):
            row = values[here]
            function(values[following], row, out=row)

    def combine_with_next(self, function: np.ufunc, others: Values, values: Values) -> None:
        """Replace every row but the last of a sequence by `function` of a next row and itself.

        Args:
            function: Function of two rows.
            others: `(N, R)`, by place; can be `values`, whose next row was not yet replaced.
            values: `(N, R)`, by place.
        """
        for here, following in self._steps:
            row = values[here]
            function(others[following], row, out=row)

    def divide(self, values: Values, divisors: Values) -> None:
        """Divide every row by that of its sequence.

        Args:
            values: `(N, R)`, by place.
            divisors: `(Q, R)`, by sequence.
        """
        divisors = divisors[self.by_length]
        for rows, width in self._positions:
            values[rows] /= divisors[width]
