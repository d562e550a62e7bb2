"""Loss as a sum and a count, so that averages over batches and processes are exact."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """Term of a loss, with the value `sum / max(count, min_count)`.

    Attributes:
        sum: Scalar tensor with gradient.
        count: Scalar tensor without gradient, number of summed elements (samples, pixels); 0 if
            nothing contributes to the loss.
        min_count: Value that the count of all batches and processes is raised to. Above 0 for a
            loss that is divided by the number of objects, but also learns the background of images
            without objects.
    """

    sum: Tensor
    count: Tensor
    min_count: float = 0.0

    def mean(self) -> Tensor:
        """Return `sum / max(count, min_count)`, 0 where this maximum is 0."""
        count = self.count.clamp(min=self.min_count)
        # `sum * 0.0` keeps the graph, so that `backward` works without any counted element.
        return self.sum / count.clamp(min=1e-12) if count > 0 else self.sum * 0.0
