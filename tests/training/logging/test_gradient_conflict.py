"""Cosines between heads' gradients, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from resnet_tasks.model import TaskModel
from resnet_tasks.training.logging.gradient_conflict import find_last_shared_stage, measure_conflict


def test_cosines_of_known_gradients(tiny_model: Callable[[], TaskModel]) -> None:
    model = tiny_model()
    stage, parameters = find_last_shared_stage(model)
    assert stage == 5
    assert sum(p.numel() for p in parameters) == sum(
        p.numel()
        for name, p in model.backbone.named_parameters()  # type: ignore[operator]
        if name.startswith("layer4")
    )
    first, second = parameters[0].flatten()[:2]
    losses = {
        "a": 3 * first,
        "b": 4 * first + 4 * second,
        "c": -first,
        "absent": torch.zeros(()),
    }
    found = measure_conflict(model, losses, lambda tensor: tensor)
    assert found is not None
    assert found.norms == pytest.approx({"a": 3.0, "b": 32**0.5, "c": 1.0, "absent": 0.0})
    half = 0.5**0.5
    assert found.cosines == pytest.approx({"a|b": half, "a|c": -1.0, "b|c": -half})
    assert all(p.grad is None for p in model.parameters())


def test_frozen_backbones_share_nothing(tiny_model: Callable[[], TaskModel]) -> None:
    model = tiny_model()
    model.freeze(["backbone"])
    assert find_last_shared_stage(model) == (0, [])
    assert (
        measure_conflict(model, {"a": torch.zeros(()), "b": torch.zeros(())}, lambda t: t) is None
    )
