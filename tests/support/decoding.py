"""Predictions of a head from its raw output, as a model makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.heads.base import Head
from resnet_tasks.structures.geometry import Geometry


def decode(head: Head, raw: Mapping[str, Tensor], geometries: Sequence[Geometry]) -> list[Any]:
    sizes = torch.tensor([each.input_size for each in geometries])
    return head.task_spec.decode(head.outputs(raw, sizes), geometries)
