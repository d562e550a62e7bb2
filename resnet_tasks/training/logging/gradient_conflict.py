"""Conflict between heads: cosines between their gradients on the parameters that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from resnet_tasks.model import TaskModel


@dataclass(frozen=True)
class GradientConflict:
    """Comparison of the heads' gradients on the last shared stage, in one step.

    Attributes:
        stage: Stage of the backbone, 1 to 5; 0 for a backbone without `find_stage`.
        norms: Head -> L2 norm of its gradient.
        cosines: `first|second` -> cosine, -1..1; below 0 the heads undo each other's steps. Pairs
            with a zero gradient are excluded.
    """

    stage: int
    norms: dict[str, float]
    cosines: dict[str, float]


def find_last_shared_stage(model: TaskModel) -> tuple[int, list[nn.Parameter]]:
    """Return the last trained stage of the backbone and its trainable parameters.

    A backbone without stages counts as one stage, number 0. The shared pyramid follows the
    backbone, but is not used because not all heads read it.
    """
    stages: dict[int, list[nn.Parameter]] = {}
    find_stage: Callable[[str], int] = getattr(model.backbone, "find_stage", lambda _: 0)
    assert isinstance(model.backbone, nn.Module)
    for name, parameter in model.backbone.named_parameters():
        if parameter.requires_grad:
            stages.setdefault(find_stage(name), []).append(parameter)
    if not stages:
        return 0, []
    last = max(stages)
    return last, stages[last]


def measure_conflict(
    model: TaskModel, losses: Mapping[str, Tensor], gather: Callable[[Tensor], Tensor]
) -> GradientConflict | None:
    """Measure the conflict between heads; retain the graph for the backward pass that follows.

    Args:
        model: Model with the heads.
        losses: Head -> its share of the loss; a constant if it has no labels in this process.
        gather: Function that sums a tensor over all processes.

    Returns:
        The conflict; None if fewer than two heads or no stage of the backbone is trained.
    """
    stage, parameters = find_last_shared_stage(model)
    if len(losses) < 2 or not parameters:
        return None
    gradients: dict[str, Tensor] = {}
    for name, loss in losses.items():
        head_gradients: tuple[Tensor | None, ...] = (None,) * len(parameters)
        if loss.requires_grad:
            head_gradients = torch.autograd.grad(
                loss, parameters, retain_graph=True, allow_unused=True
            )
        flat = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for gradient, parameter in zip(head_gradients, parameters, strict=True)
        ]
        gradients[name] = gather(torch.cat([gradient.flatten().float() for gradient in flat]))
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    cosines = {
        f"{first}|{second}": float(gradients[first] @ gradients[second])
        / (norms[first] * norms[second])
        for first, second in combinations(gradients, 2)
        if norms[first] and norms[second]
    }
    return GradientConflict(stage, norms, cosines)
