"""Loss as a sum and a count, so that averages over batches and processes are exact."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """Term of a loss, with the value `sum / count`.

    Attributes:
        sum: Scalar tensor with gradient.
        count: Scalar tensor without gradient, number of summed elements (samples, pixels); 0 if
            nothing contributes to the loss.
    """

    sum: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """Return `sum / count`, 0 where the count is 0."""
        # `sum * 0.0` keeps the graph, so that `backward` works without any counted element.
        return self.sum / self.count.clamp(min=1e-12) if self.count > 0 else self.sum * 0.0
