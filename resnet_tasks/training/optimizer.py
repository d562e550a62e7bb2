"""Optimizer, parameter groups and the learning rate over a run."""

from __future__ import annotations

import math

import torch
from torch import nn

from resnet_tasks.recipe.schema import TrainingRecipe

Group = dict[str, object]


def parameter_groups(model: nn.Module, options: TrainingRecipe) -> list[Group]:
    """Trainable parameters: the backbone at its own rate, norms and biases without weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = options.learning_rate
        if name.startswith("backbone."):
            rate *= options.backbone_lr_scale
        # He et al. 2018 ("Bag of Tricks", section 3.1): one-dimensional parameters are not decayed.
        decay = options.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def make_optimizer(model: nn.Module, options: TrainingRecipe) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum over `parameter_groups`."""
    groups = parameter_groups(model, options)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)
    nesterov = options.momentum > 0
    return torch.optim.SGD(
        groups, lr=options.learning_rate, momentum=options.momentum, nesterov=nesterov, fused=True
    )


def rate_factor(step: int, total: int, options: TrainingRecipe) -> float:
    """What the learning rate is multiplied with at optimizer step `step` of `total`.

    Linear warm-up, then cosine to 0 (Loshchilov & Hutter 2017, without restarts), steps, or
    constant.
    """
    warmup = round(total * options.warmup)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "steps":
        passed = sum(step >= fraction * total for fraction in options.steps)
        return float(options.step_factor**passed)
    done = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to its own base rate times `factor`."""
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor
