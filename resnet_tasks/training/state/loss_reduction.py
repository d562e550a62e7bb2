"""Reduction of losses over processes: their reports on a batch, and means over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from resnet_tasks.errors import ImageError
from resnet_tasks.model import Losses, TaskModel
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import Batch
from resnet_tasks.structures.targets import Target

TermCounts = dict[str, tuple[float, float]]
"""Loss term -> its count, and the minimum that the count of a whole step is raised to."""


@dataclass(frozen=True)
class BatchReport:
    """Report of a process on its part of a batch, exchanged between all processes.

    Attributes:
        sums: Loss term -> sum over the part.
        counts: Loss term -> count over the part, and the minimum of the count of the whole batch.
        trouble: Description of the losses if one is not finite; else empty.
        stop: Whether this process was asked to stop.
        left_out: Errors of the images that could not be read.
    """

    sums: dict[str, float]
    counts: TermCounts
    trouble: str = ""
    stop: bool = False
    left_out: tuple[ImageError, ...] = ()

    @classmethod
    def from_losses(cls, losses: Losses, batch: Batch, *, stop: bool) -> BatchReport:
        """Create the report on a batch.

        Args:
            losses: Loss terms of the batch.
            batch: This process's part of the batch.
            stop: Whether this process was asked to stop.
        """
        sums = {name: term.sum.item() for name, term in losses.items()}
        is_finite = all(map(math.isfinite, sums.values()))
        trouble = "" if is_finite else describe_losses(losses, [batch])
        return cls(sums, read_counts(losses), trouble, stop, batch.left_out)

    @property
    def means(self) -> dict[str, float]:
        """Loss term -> mean over the part."""
        return compute_means(self.sums, sum_counts([self.counts]))


@dataclass(frozen=True)
class StepLosses:
    """Losses of one optimizer step; empty if it was skipped or has no annotated image.

    Attributes:
        terms: `head/term` -> mean of the loss term over all batches and processes.
        heads: Head -> its `loss_weight` times the sum of its terms; heads without annotations in
            the step are missing.
    """

    terms: dict[str, float] = field(default_factory=dict)
    heads: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float | None:
        """Sum over all heads, before `training.balancing`; None for empty losses.

        Balancing would hide what the total is shown for: `uncertainty` drives the weighted loss of
        every head to 1/2, whether the head learns or not.
        """
        return math.fsum(self.heads.values()) if self.heads else None


def drop_annotations(batch: Batch) -> Batch:
    """Return the batch with all targets marked as not annotated; its losses are then 0."""
    return replace(batch, targets=tuple(Target() for _ in batch.targets))


def sum_by_name(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sum values by name, in the order of names, so that all processes agree to the last digit."""
    names = sorted({name for part in parts for name in part})
    return {name: math.fsum(part.get(name, 0.0) for part in parts) for name in names}


def read_counts(losses: Losses) -> TermCounts:
    """Return the count of every loss term and its minimum, see `LossTerm`."""
    return {name: (float(term.count.item()), term.min_count) for name, term in losses.items()}


def sum_counts(parts: Sequence[TermCounts]) -> dict[str, float]:
    """Sum the counts of every loss term over batches and processes, and apply the minimum."""
    totals = sum_by_name([{name: part[name][0] for name in part} for part in parts])
    for part in parts:
        for name, (_, min_count) in part.items():
            totals[name] = max(totals[name], min_count)
    return totals


def find_counted_heads(heads: Sequence[str], counts: Mapping[str, float]) -> list[str]:
    """Return the heads with a loss term whose count is above 0, in their order."""
    counted = {name.split("/")[0] for name, count in counts.items() if count > 0}
    return [head for head in heads if head in counted]


def compute_loss_shares(
    model: TaskModel, losses: Losses, counts: Mapping[str, float], num_processes: int
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Compute this process's share of every head's mean loss over all processes.

    Args:
        model: Model in training.
        losses: Loss terms of this process.
        counts: Loss term -> divisor over all processes.
        num_processes: Number of processes.

    Returns:
        Head -> loss of the heads with a loss term whose count is above 0, which is 0 for a head
        whose labels are all in other processes; and the losses of the other heads, which are 0.
    """
    # The sums are multiplied by the number of processes, because DDP averages the gradients.
    terms = {
        name: LossTerm(term.sum * num_processes, torch.full_like(term.count, counts[name]))
        for name, term in losses.items()
    }
    shares = model.compute_head_losses(terms)
    absent = torch.zeros((), device=model.device)
    heads = find_counted_heads(model.trained_heads, counts)
    return {head: shares.pop(head, absent) for head in heads}, list(shares.values())


def compute_means(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of every loss term; 0 if its count is 0."""
    return {name: value / max(counts[name], 1e-12) for name, value in sums.items()}


def sum_head_losses(
    means: Mapping[str, float], heads: Sequence[str], weights: Mapping[str, float]
) -> dict[str, float]:
    """Return head -> its weight times the sum of the means of its loss terms."""
    return {
        head: weights[head]
        * math.fsum(mean for name, mean in means.items() if name.split("/")[0] == head)
        for head in heads
    }


def describe_losses(losses: Losses, batches: Sequence[Batch]) -> str:
    """Return a text with the losses and images of batches, for error messages."""
    terms = ", ".join(f"{name} {term.mean().item():.4g}" for name, term in losses.items())
    images = ", ".join(
        f"{image_id} ({name})"
        for batch in batches
        for image_id, name in zip(batch.image_ids, batch.file_names, strict=True)
    )
    return f"losses: {terms}; images of the batch: {images}"
