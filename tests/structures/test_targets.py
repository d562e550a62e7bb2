"""Fields of a target that tasks ask for."""

from __future__ import annotations

import torch

from resnet_tasks.structures.targets import Target


def test_a_task_may_need_a_field_of_the_users_own() -> None:
    assert Target(extra={"depth": torch.zeros(1)}).has_fields(("depth",))
    assert not Target().has_fields(("depth",))
