"""A loss as a sum and a count, so that batches and processes average correctly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss; its value is `sum / count`.

    Attributes:
        sum: Scalar, with gradient.
        count: Scalar without gradient; what the sum runs over (samples, pixels). 0 where there is
            nothing to learn.
    """

    sum: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """`sum / count`, 0 where the count is 0."""
        return self.sum / self.count.clamp(min=1e-12) if self.count > 0 else self.sum * 0.0
