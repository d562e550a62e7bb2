"""Gradual unfreezing: stages of the backbone are trained from some epoch on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from resnet_tasks.errors import RunError
from resnet_tasks.recipe.schema.training import UnfreezeRecipe


class UnfreezeSchedule:
    """Schedule of the frozen stages of a backbone, which depends on the epoch only.

    Howard and Ruder 2018 ("ULMFiT", section 3.3) unfreeze a network from its last layer on, so that
    the first gradients of new heads do not destroy pretrained weights.

    Args:
        backbone: Backbone; with `steps` it must have `frozen_stages` and `freeze_stages`.
        steps: Steps in ascending order of epoch, each with fewer frozen stages than the previous
            one; empty: no schedule.

    Raises:
        RunError: If the backbone has no `freeze_stages`, or the first step unfreezes nothing.
    """

    def __init__(self, backbone: Any, steps: Sequence[UnfreezeRecipe]) -> None:
        self._steps = tuple(steps)
        self._backbone = backbone
        if not steps:
            return
        if not hasattr(self._backbone, "freeze_stages"):
            raise RunError(
                f"training.unfreeze: the backbone ({type(backbone).__name__}) has no method "
                "`freeze_stages`; remove training.unfreeze, or add the method"
            )
        self._first = int(self._backbone.frozen_stages)
        if steps[0].frozen_stages >= self._first:
            raise RunError(
                f"training.unfreeze reduces the frozen stages to {steps[0].frozen_stages}, but the "
                f"backbone starts with {self._first}; increase backbone.frozen_stages"
            )

    def __bool__(self) -> bool:
        return bool(self._steps)

    def get_frozen_stages(self, epoch: int) -> int:
        """Return the number of frozen stages in an epoch, counted from 0."""
        passed = [step.frozen_stages for step in self._steps if step.epoch <= epoch]
        return passed[-1] if passed else self._first

    def enter_epoch(self, epoch: int) -> int | None:
        """Freeze the stages of an epoch.

        Returns:
            The number of frozen stages; None if it did not change.
        """
        if not self._steps:
            return None
        target_stages = self.get_frozen_stages(epoch)
        if target_stages == self._backbone.frozen_stages:
            return None
        self._backbone.freeze_stages(target_stages)
        return target_stages

    @contextmanager
    def unfreeze_all(self) -> Iterator[None]:
        """Make all parameters trainable inside the block that are trained in any epoch.

        The optimizer and DDP are built in this state, so that they know these parameters. Both skip
        parameters without gradient, so a stage that is unfrozen later trains as from the start.
        """
        if not self._steps:
            yield
            return
        self._backbone.freeze_stages(self._steps[-1].frozen_stages)
        try:
            yield
        finally:
            self._backbone.freeze_stages(self._first)
