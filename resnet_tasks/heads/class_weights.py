"""The option `class_weights` of heads: names or numbers -> a tensor in label order."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from resnet_tasks.errors import HeadError


def weights_in_order(
    given: Mapping[str, float] | tuple[float, ...] | None, classes: tuple[str, ...], head: str
) -> Tensor | None:
    """`(K,)` float32 class weights in label order.

    Raises:
        HeadError: If a class is unknown, the number of weights is wrong, or a weight is not usable.
    """
    if given is None:
        return None
    where = f"options of head {head}: class_weights"
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in classes]
        if unknown:
            raise HeadError(
                f"{where} names {', '.join(map(repr, unknown))}, which is not among the classes "
                f"{', '.join(map(repr, classes))}"
            )
        values = [given.get(name, 1.0) for name in classes]
    else:
        values = list(given)
        if len(values) != len(classes):
            raise HeadError(
                f"{where} has {len(values)} values for {len(classes)} classes; give one per class "
                f"in the order {', '.join(classes)}, or name -> weight"
            )
    if not all(math.isfinite(each) and each >= 0 for each in values) or not any(values):
        raise HeadError(
            f"{where} is {values}; every weight must be finite and at least 0, and one above 0"
        )
    return torch.tensor(values, dtype=torch.float32)
