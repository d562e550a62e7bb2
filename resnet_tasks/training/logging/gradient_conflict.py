"""Whether the heads pull what they share in the same direction: cosines between their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from resnet_tasks.model import TaskModel


@dataclass(frozen=True)
class GradientConflict:
    """Gradients of the heads' losses on the last shared stage, in one step.

    Attributes:
        stage: The stage of the backbone, 1 to 5; 0: a backbone that does not tell its stages.
        norms: Head -> norm of its gradient.
        cosines: `first|second` -> cosine, -1..1; below 0 the heads undo each other's steps. Pairs
            with a gradient of 0 are left out.
    """

    stage: int
    norms: dict[str, float]
    cosines: dict[str, float]


def find_last_shared_stage(model: TaskModel) -> tuple[int, list[nn.Parameter]]:
    """The last stage of the backbone that is trained, and its parameters; all, where it has none.

    The shared pyramid comes behind it, but not all heads read that.
    """
    stages: dict[int, list[nn.Parameter]] = {}
    stage_of: Callable[[str], int] = getattr(model.backbone, "find_stage", lambda _: 0)
    assert isinstance(model.backbone, nn.Module)
    for name, parameter in model.backbone.named_parameters():
        if parameter.requires_grad:
            stages.setdefault(stage_of(name), []).append(parameter)
    if not stages:
        return 0, []
    last = max(stages)
    return last, stages[last]


def measure_conflict(
    model: TaskModel, losses: Mapping[str, Tensor], gather: Callable[[Tensor], Tensor]
) -> GradientConflict | None:
    """The conflict between heads; leaves the graph for the backward to come.

    Args:
        model: Whose heads they are.
        losses: Head -> its part of the loss; a head without labels in this process has a constant.
        gather: The sum of a tensor over all processes.

    Returns:
        None where fewer than two heads, or no stage of the backbone, are trained.
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
