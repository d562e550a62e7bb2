"""How the losses of several heads are weighed against each other while they train together.

`heads.NAME.loss_weight` stays what it is; a balancing multiplies what comes out of it. `L_h` is the
weighted sum of the means of a head's terms in a step; heads without labels in it have none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from resnet_tasks.registry import Registry

DWA_TEMPERATURE = 2.0
"""Liu, Johns and Davison, CVPR 2019, section 3.3: T = 2."""


class LossBalancer(nn.Module, ABC):
    """Base of all: a module, so that what it learns is saved, resumed and exchanged with the rest.

    Args:
        heads: Names of the heads that are trained.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__()
        self.heads = tuple(heads)

    @abstractmethod
    def compute_weights(self) -> dict[str, float]:
        """Head -> what its loss is multiplied with now."""

    @abstractmethod
    def combine_losses(
        self, losses: Mapping[str, Tensor], variables: Mapping[str, Tensor], batch_fraction: float
    ) -> Tensor:
        """The loss of a batch.

        Args:
            losses: Head -> its share of `L_h` in this process, of this batch; a zero for a head
                that has labels elsewhere in the step only.
            variables: Of `variables()`, taken in the forward of the same batch.
            batch_fraction: Of the step that the batch makes up: 1 / accumulated batches.
        """

    def get_variables(self) -> dict[str, Tensor]:
        """What is learned, by head, with a graph; gradients are exchanged from here."""
        return {}

    def drop_gradients(self, heads: Sequence[str]) -> None:
        """Drops the gradients of what belongs to heads that a step taught nothing."""
        del heads

    def record_losses(self, losses: Mapping[str, float]) -> None:
        """Takes the `L_h` of a step that was made, over all processes."""
        del losses

    def end_epoch(self) -> None:
        """An epoch is over."""


LOSS_BALANCERS: Registry[type[LossBalancer]] = Registry(
    "balancing", group="resnet_tasks.balancings"
)
"""Name under `training.balancing` of a recipe -> class."""


@LOSS_BALANCERS.register("fixed")
class FixedBalancer(LossBalancer):
    """The sum of the heads' losses."""

    def compute_weights(self) -> dict[str, float]:
        """All 1."""
        return dict.fromkeys(self.heads, 1.0)

    def combine_losses(
        self, losses: Mapping[str, Tensor], variables: Mapping[str, Tensor], batch_fraction: float
    ) -> Tensor:
        """Their sum."""
        del variables, batch_fraction
        return torch.stack(list(losses.values())).sum()


@LOSS_BALANCERS.register("uncertainty")
class UncertaintyBalancer(LossBalancer):
    """Weights that are learned with the model, from how uncertain each head is.

    Kendall, Gal and Cipolla, CVPR 2018, equation 10 in its form for classification: the loss is the
    sum of `exp(-s_h) L_h + s_h / 2`, `s_h = log sigma_h^2` being learned, 0 at first. A head's part
    tends to 1/2 whatever its scale. A step that teaches a head nothing leaves its `s_h` alone.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__(heads)
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in heads}
        )

    def get_variables(self) -> dict[str, Tensor]:
        """Head -> `s_h`."""
        return {name: self.log_variances[name] * 1.0 for name in self.heads}

    def compute_weights(self) -> dict[str, float]:
        """`exp(-s_h)`."""
        return {name: math.exp(-self.log_variances[name].item()) for name in self.heads}

    def drop_gradients(self, heads: Sequence[str]) -> None:
        """Optimizers pass over what has no gradient, momentum included."""
        for name in heads:
            self.log_variances[name].grad = None

    def combine_losses(
        self, losses: Mapping[str, Tensor], variables: Mapping[str, Tensor], batch_fraction: float
    ) -> Tensor:
        """Equation 10; every variable is touched, so that no process waits for its gradient."""
        parts = [
            (-variables[name]).exp() * loss + batch_fraction * variables[name] / 2
            for name, loss in losses.items()
        ]
        unused = [value * 0.0 for name, value in variables.items() if name not in losses]
        return torch.stack(parts + unused).sum()


@LOSS_BALANCERS.register("dwa")
class DynamicWeightAverage(LossBalancer):
    """More weight for heads whose loss falls more slowly, epoch by epoch.

    Liu, Johns and Davison, CVPR 2019, equation 7 ("dynamic weight average"): with `r_h` the mean
    loss of the last epoch over that of the one before it, weights are proportional to
    `exp(r_h / T)` and sum to the number of heads; 1 in the first two epochs, and for a head that
    had no labels in either epoch (`r_h` counts as 1).
    """

    sums: Tensor
    last: Tensor

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__(heads)
        count = len(self.heads)
        # Rows: the sum of a running epoch's losses, and how many steps had one.
        self.register_buffer("sums", torch.zeros(2, count))
        # Rows: mean losses of the epoch before the last one, and of the last one; NaN: none.
        self.register_buffer("last", torch.full((2, count), math.nan))

    def compute_weights(self) -> dict[str, float]:
        """Equation 7."""
        ratios = (self.last[1] / self.last[0]).nan_to_num(nan=1.0, posinf=1.0)
        raised = (ratios / DWA_TEMPERATURE).exp()
        values = len(self.heads) * raised / raised.sum()
        return dict(zip(self.heads, values.tolist(), strict=True))

    def combine_losses(
        self, losses: Mapping[str, Tensor], variables: Mapping[str, Tensor], batch_fraction: float
    ) -> Tensor:
        """The weighted sum."""
        del variables, batch_fraction
        weights = self.compute_weights()
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def record_losses(self, losses: Mapping[str, float]) -> None:
        """Adds a step to the running epoch."""
        for name, value in losses.items():
            column = self.heads.index(name)
            self.sums[:, column] += torch.tensor([value, 1.0])

    def end_epoch(self) -> None:
        """The running epoch becomes the last one."""
        means = torch.where(self.sums[1] > 0, self.sums[0] / self.sums[1], math.nan)
        self.last = torch.stack((self.last[1], means))
        self.sums = torch.zeros_like(self.sums)
