"""The option `class_weights` of heads: names or numbers -> a tensor in label order."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from resnet_tasks.errors import HeadError, format_allowed, format_list
from resnet_tasks.number_formats import Count
from resnet_tasks.registry import suggest_nearest


def make_class_weights(
    weights: Mapping[str, float] | tuple[float, ...] | None, classes: tuple[str, ...], head: str
) -> Tensor | None:
    """Convert the option to `(K,)` float32 class weights in label order.

    Args:
        weights: One weight per class in label order, or class name -> weight, where the default
            weight is 1. None means no weights.
        classes: Class names of the head.
        head: Name of the head class, for error messages.

    Returns:
        Weights, or None if there are none.

    Raises:
        HeadError: If a class is unknown, the number of weights is wrong, or a weight is negative or
            not finite, or if all weights are 0.
    """
    if weights is None:
        return None
    option_path = f"options of head {head}: class_weights"
    if isinstance(weights, Mapping):
        unknown = [name for name in weights if name not in classes]
        if unknown:
            hint = suggest_nearest(unknown[0], classes)
            raise HeadError(
                f"{option_path} names {format_list(map(repr, unknown))}, but the classes are "
                f"{format_allowed(map(repr, classes))}{hint}"
            )
        values = [weights.get(name, 1.0) for name in classes]
    else:
        values = list(weights)
        if len(values) != len(classes):
            raise HeadError(
                f"{option_path} has {Count(len(values)):value} for {Count(len(classes)):class}; "
                f"give one per class in the order {format_allowed(classes)}, or name -> weight"
            )
    if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
        raise HeadError(
            f"{option_path} is {values}; every weight must be finite and at least 0, and at least "
            "one must be above 0"
        )
    return torch.tensor(values, dtype=torch.float32)
