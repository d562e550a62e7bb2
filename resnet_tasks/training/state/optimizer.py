"""Optimizer, parameter groups and learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from resnet_tasks.errors import RunError
from resnet_tasks.recipe.schema.training import TrainingRecipe

ParameterGroup = dict[str, object]

STAGES = 5
"""Number of stages of a backbone: the stem, and the stages that end in C2..C5."""


def build_parameter_groups(model: nn.Module, options: TrainingRecipe) -> list[ParameterGroup]:
    """Group the trainable parameters by learning rate; norms and biases get no weight decay.

    The rate of a head is `learning_rate` times its scale (`model.lr_scales`). The rate of stage s
    of the backbone is `learning_rate * backbone_lr_scale * layer_decay^(6 - s)`, with s = 1 for the
    stem and s = 5 for the stage of C5: with a decay below 1 the first stages change least. Bao et
    al. 2021 ("BEiT", appendix) fine-tune with such rates, counted from the head as here.

    Args:
        model: Model in training.
        options: Training options.

    Raises:
        RunError: If `layer_decay` is not 1 and the backbone has no `find_stage`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = options.learning_rate * compute_lr_scale(model, name, options)
        # He et al. 2018 ("Bag of Tricks", section 3.1): no decay of one-dimensional parameters.
        decay = options.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def compute_lr_scale(model: nn.Module, name: str, options: TrainingRecipe) -> float:
    """Return the learning rate of a parameter, relative to `training.learning_rate`.

    Args:
        model: Model in training.
        name: Name of the parameter, as in `named_parameters`.
        options: Training options.

    Raises:
        RunError: If `layer_decay` is not 1 and the backbone has no `find_stage`.
    """
    part, _, inner = name.partition(".")
    if part == "heads":
        scales: dict[str, float] = getattr(model, "lr_scales", {})
        return scales.get(inner.partition(".")[0], 1.0)
    if part != "backbone":
        return 1.0
    if options.layer_decay == 1.0:
        return options.backbone_lr_scale
    find_stage = getattr(model.backbone, "find_stage", None)
    if find_stage is None:
        raise RunError(
            f"training.layer_decay is {options.layer_decay}, but the backbone "
            f"({type(model.backbone).__name__}) has no method `find_stage` that names the stage "
            "(1 to 5) of a parameter; set training.layer_decay=1.0, or add the method"
        )
    depth = STAGES + 1 - int(find_stage(inner))
    return options.backbone_lr_scale * float(options.layer_decay**depth)


def make_optimizer(
    model: nn.Module, options: TrainingRecipe, balancer: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Create AdamW, or SGD with Nesterov momentum, over `build_parameter_groups`.

    The variables of a loss balancer are trained at `learning_rate` without weight decay, which
    would pull them toward equal weights.

    Args:
        model: Model in training.
        options: Training options.
        balancer: Balancer of the heads' losses; None: without variables.
    """
    groups = build_parameter_groups(model, options)
    balancer_parameters = [] if balancer is None else list(balancer.parameters())
    if balancer_parameters:
        groups.append(
            {"params": balancer_parameters, "lr": options.learning_rate, "weight_decay": 0.0}
        )
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)
    nesterov = options.momentum > 0
    optimizer = torch.optim.SGD(
        groups, lr=options.learning_rate, momentum=options.momentum, nesterov=nesterov, fused=True
    )
    if options.momentum:
        # torch's fused step fails if some parameters get their first gradient later than others
        # (heads without labels at first, stages that are unfrozen). A momentum buffer of zeros
        # gives the same result as none.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def compute_lr_factor(step: int, total: int, options: TrainingRecipe) -> float:
    """Return the multiplier of the learning rate at an optimizer step.

    The schedule is a linear warm-up, then cosine to 0 (Loshchilov & Hutter 2017, without
    restarts), steps, or constant.

    Args:
        step: Index of the optimizer step, from 0.
        total: Number of optimizer steps of the run.
        options: Training options with the schedule.
    """
    warmup = round(total * options.warmup)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "steps":
        passed = sum(step >= fraction * total for fraction in options.steps)
        return float(options.step_factor**passed)
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every parameter group to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor
