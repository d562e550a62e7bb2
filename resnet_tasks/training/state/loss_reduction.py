"""What processes tell each other about a step, and what their parts of a batch mean together."""

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
    """What a process tells the others of its part of a batch: sums and counts by loss term."""

    sums: dict[str, float]
    counts: dict[str, float]
    trouble: str = ""
    stop: bool = False
    left_out: tuple[ImageError, ...] = ()


class LossModule(nn.Module):
    """A model's losses, the variables of their balancing, and a zero on a parameter of its own.

    Gradients are exchanged during the backward of every process, also of one whose images teach
    nothing: there the zero is all that is left to go backward from.
    """

    def __init__(self, model: TaskModel, balancer: LossBalancer | None = None) -> None:
        super().__init__()
        self.model = model
        self.balancer = balancer
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> tuple[Losses, Tensor, dict[str, Tensor]]:
        """The losses of a batch, the zero, and what weighs the losses (`Balancing.variables`)."""
        variables = {} if self.balancer is None else self.balancer.get_variables()
        return self.model(batch, mode="loss"), self.anchor * 0.0, variables


def drop_annotations(batch: Batch) -> Batch:
    """The same images, with nothing known of them."""
    return replace(batch, targets=tuple(Target() for _ in batch.targets))


def sum_by_name(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums by name, in the order of names, so that all processes agree to the last digit."""
    names = sorted({name for part in parts for name in part})
    return {name: math.fsum(part.get(name, 0.0) for part in parts) for name in names}


def scale_loss_terms(losses: Losses, counts: Mapping[str, float], processes: int) -> Losses:
    """This process's terms, as parts of those over all processes.

    Gradients are averaged over processes, hence the factor.

    Args:
        losses: Of this process.
        counts: What the terms are divided by, over all processes.
        processes: How many there are.
    """
    return {
        name: LossTerm(term.sum * processes, torch.full_like(term.count, counts[name]))
        for name, term in losses.items()
    }


def compute_means(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """Mean of every loss term; 0 where it counts nothing."""
    return {name: value / max(counts[name], 1e-12) for name, value in sums.items()}


def describe_losses(losses: Losses, batches: Sequence[Batch]) -> str:
    """Losses and images of a step that went wrong."""
    terms = ", ".join(f"{name} {term.mean().item():.4g}" for name, term in losses.items())
    images = ", ".join(
        f"{image_id} ({name})"
        for batch in batches
        for image_id, name in zip(batch.image_ids, batch.file_names, strict=True)
    )
    return f"losses: {terms}; images of the batch: {images}"
