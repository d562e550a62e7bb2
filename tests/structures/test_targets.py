"""Fields of a target that tasks ask for."""

from __future__ import annotations

import torch

from resnet_tasks.structures.targets import Target
from resnet_tasks.structures.tasks import DETECTION


def test_a_task_may_need_a_field_of_the_users_own() -> None:
    task = type(DETECTION)("depth", ("depth",))
    assert Target(extra={"depth": torch.zeros(1)}).has_fields_for(task)
    assert not Target().has_fields_for(task)
