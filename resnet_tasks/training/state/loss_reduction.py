"""Reduction of losses over processes: their reports on a batch, and means over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from resnet_tasks.errors import ImageError
from resnet_tasks.model import Losses, TaskModel
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import Batch
from resnet_tasks.structures.targets import Target
from resnet_tasks.training.state.balancing import LossBalancer


@dataclass(frozen=True)
class BatchReport:
    """Report of a process on its part of a batch, exchanged between all processes.

    Attributes:
        sums: Loss term -> sum over the part.
        counts: Loss term -> count over the part, by which the sum is divided.
        trouble: Description of the losses if one is not finite; else empty.
        stop: Whether this process was requested to stop.
        left_out: Errors of the images that could not be read.
    """

    sums: dict[str, float]
    counts: dict[str, float]
    trouble: str = ""
    stop: bool = False
    left_out: tuple[ImageError, ...] = ()


class LossModule(nn.Module):
    """Module that computes a model's losses, the balancer's variables, and a zero with a graph.

    Processes exchange gradients during the backward pass, so that every process must run one. In a
    process whose images have no annotations, the zero is the only output with a graph. It comes
    from a separate parameter, the anchor.

    Args:
        model: Model in training.
        balancer: Balancer of the heads' losses; None: without variables.

    Attributes:
        model: Model in training.
        balancer: Balancer of the heads' losses.
        anchor: Scalar parameter that never changes.
    """

    def __init__(self, model: TaskModel, balancer: LossBalancer | None = None) -> None:
        super().__init__()
        self.model = model
        self.balancer = balancer
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> tuple[Losses, Tensor, dict[str, Tensor]]:
        """Return the loss terms of a batch, the zero, and `LossBalancer.get_variables`."""
        variables = {} if self.balancer is None else self.balancer.get_variables()
        return self.model(batch, mode="loss"), self.anchor * 0.0, variables


def drop_annotations(batch: Batch) -> Batch:
    """Return the batch with all targets marked as not annotated, so that they give no loss."""
    return replace(batch, targets=tuple(Target() for _ in batch.targets))


def sum_by_name(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sum values by name, in the order of names, so that all processes agree to the last digit."""
    names = sorted({name for part in parts for name in part})
    return {name: math.fsum(part.get(name, 0.0) for part in parts) for name in names}


def scale_loss_terms(losses: Losses, counts: Mapping[str, float], processes: int) -> Losses:
    """Scale this process's loss terms to its share of the means over all processes.

    The sums are multiplied by the number of processes, because DDP averages the gradients.

    Args:
        losses: Loss terms of this process.
        counts: Loss term -> divisor over all processes.
        processes: Number of processes.
    """
    return {
        name: LossTerm(term.sum * processes, torch.full_like(term.count, counts[name]))
        for name, term in losses.items()
    }


def compute_means(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of every loss term; 0 if its count is 0."""
    return {name: value / max(counts[name], 1e-12) for name, value in sums.items()}


def describe_losses(losses: Losses, batches: Sequence[Batch]) -> str:
    """Return a text with the losses and images of batches, for error messages."""
    terms = ", ".join(f"{name} {term.mean().item():.4g}" for name, term in losses.items())
    images = ", ".join(
        f"{image_id} ({name})"
        for batch in batches
        for image_id, name in zip(batch.image_ids, batch.file_names, strict=True)
    )
    return f"losses: {terms}; images of the batch: {images}"
