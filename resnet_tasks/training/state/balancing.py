"""Balancing of the losses of several heads that train together.

A balancer multiplies each head's loss on top of `heads.NAME.loss_weight`. `L_h` is the weighted
sum of the means of a head's loss terms in a step; heads without labels in the step have none.
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
    """Base class of loss balancers.

    A balancer is a module: learned weights are saved, restored and exchanged between processes like
    other parameters.

    Args:
        heads: Names of the heads that are trained.

    Attributes:
        heads: Names of the heads that are trained.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__()
        self.heads = tuple(heads)

    @abstractmethod
    def compute_weights(self) -> dict[str, float]:
        """Return the current weights: head -> multiplier of its loss."""

    @abstractmethod
    def combine_losses(
        self, losses: Mapping[str, Tensor], variables: Mapping[str, Tensor], batch_fraction: float
    ) -> Tensor:
        """Return the total loss of a batch.

        Args:
            losses: Head -> share of `L_h` of this batch in this process; 0 for a head whose labels
                are in other batches or processes of the step.
            variables: Result of `get_variables()` in the forward pass of the same batch.
            batch_fraction: Fraction of the step that the batch makes up: 1 / accumulated batches.
        """

    def get_variables(self) -> dict[str, Tensor]:
        """Return the learned variables by head, with a graph.

        `LossModule` outputs them, so that processes exchange their gradients.
        """
        return {}

    def drop_gradients(self, heads: Sequence[str]) -> None:
        """Drop the gradients of the variables of heads without labels in the step."""
        del heads

    def record_losses(self, losses: Mapping[str, float]) -> None:
        """Record the losses of a finished step: head -> `L_h` over all processes."""
        del losses

    def end_epoch(self) -> None:
        """Update the weights at the end of an epoch."""


LOSS_BALANCERS: Registry[type[LossBalancer]] = Registry(
    "balancing", group="resnet_tasks.balancings"
)
"""Registry of loss balancers: name in `training.balancing` of a recipe -> class."""


@LOSS_BALANCERS.register("fixed")
class FixedBalancer(LossBalancer):
    """Balancer that sums the heads' losses without further weights."""

    def compute_weights(self) -> dict[str, float]:
        """Return a weight of 1 for every head."""
        return dict.fromkeys(self.heads, 1.0)

    def combine_losses(
        self, losses: Mapping[str, Tensor], variables: Mapping[str, Tensor], batch_fraction: float
    ) -> Tensor:
        """Return the sum of the heads' losses."""
        del variables, batch_fraction
        return torch.stack(list(losses.values())).sum()


@LOSS_BALANCERS.register("uncertainty")
class UncertaintyBalancer(LossBalancer):
    """Balancer whose weights are learned with the model, from the uncertainty of every head.

    Kendall, Gal and Cipolla, CVPR 2018, equation 10 in its form for classification: the loss is the
    sum of `exp(-s_h) L_h + s_h / 2`, where `s_h = log sigma_h^2` is learned and starts at 0. The
    weighted loss `exp(-s_h) L_h` of every head tends to 1/2, whatever its scale. A step without
    labels for a head does not change its `s_h`.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__(heads)
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in heads}
        )

    def get_variables(self) -> dict[str, Tensor]:
        """Return `s_h` of every head."""
        # DDP finds the parameters in use through `grad_fn`, which a parameter itself does not have.
        return {name: self.log_variances[name] * 1.0 for name in self.heads}

    def compute_weights(self) -> dict[str, float]:
        """Return `exp(-s_h)` of every head."""
        return {name: math.exp(-self.log_variances[name].item()) for name in self.heads}

    def drop_gradients(self, heads: Sequence[str]) -> None:
        """Set the gradients of the heads' `s_h` to None.

        Optimizers skip parameters without gradient, while a gradient of 0 would still apply the
        momentum.
        """
        for name in heads:
            self.log_variances[name].grad = None

    def combine_losses(
        self, losses: Mapping[str, Tensor], variables: Mapping[str, Tensor], batch_fraction: float
    ) -> Tensor:
        """Return the loss of equation 10.

        Unused variables enter with a factor of 0, so that no process waits for their gradients.
        """
        parts = [
            (-variables[name]).exp() * loss + batch_fraction * variables[name] / 2
            for name, loss in losses.items()
        ]
        unused = [value * 0.0 for name, value in variables.items() if name not in losses]
        return torch.stack(parts + unused).sum()


@LOSS_BALANCERS.register("dwa")
class DynamicWeightAverage(LossBalancer):
    """Balancer that gives more weight to heads whose loss falls more slowly, epoch by epoch.

    Liu, Johns and Davison, CVPR 2019, equation 7 ("dynamic weight average"): `r_h` is the mean
    loss of the last epoch divided by that of the epoch before it. The weights are proportional to
    `exp(r_h / T)` and sum to the number of heads. `r_h` is 1 in the first two epochs, and for a
    head that had no labels in one of the two epochs.
    """

    sums: Tensor
    last: Tensor

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__(heads)
        count = len(self.heads)
        # Rows: the sum of the current epoch's losses, and the number of steps that had one.
        self.register_buffer("sums", torch.zeros(2, count))
        # Rows: mean losses of the epoch before the last one, and of the last one; NaN without any.
        self.register_buffer("last", torch.full((2, count), math.nan))

    def compute_weights(self) -> dict[str, float]:
        """Return the weights of equation 7."""
        ratios = (self.last[1] / self.last[0]).nan_to_num(nan=1.0, posinf=1.0)
        raised = (ratios / DWA_TEMPERATURE).exp()
        values = len(self.heads) * raised / raised.sum()
        return dict(zip(self.heads, values.tolist(), strict=True))

    def combine_losses(
        self, losses: Mapping[str, Tensor], variables: Mapping[str, Tensor], batch_fraction: float
    ) -> Tensor:
        """Return the weighted sum of the heads' losses."""
        del variables, batch_fraction
        weights = self.compute_weights()
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def record_losses(self, losses: Mapping[str, float]) -> None:
        """Add the losses of a step to the current epoch."""
        for name, value in losses.items():
            column = self.heads.index(name)
            self.sums[:, column] += torch.tensor([value, 1.0])

    def end_epoch(self) -> None:
        """Store the mean losses of the current epoch as those of the last one."""
        means = torch.where(self.sums[1] > 0, self.sums[0] / self.sums[1], math.nan)
        self.last = torch.stack((self.last[1], means))
        self.sums = torch.zeros_like(self.sums)
