"""Gradual unfreezing: stages of the backbone that join the training after some epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from resnet_tasks.errors import RunError
from resnet_tasks.recipe.schema.training import UnfreezeRecipe


class UnfreezeSchedule:
    """Which stages of a backbone are frozen in which epoch: a function of the epoch alone.

    Howard and Ruder 2018 ("ULMFiT", section 3.3) free a net from its last layer on, so that the
    first gradients of new heads do not destroy what was pretrained.

    Args:
        backbone: A module with `get_frozen_stages` and `freeze_stages`, where there are steps.
        steps: By rising epoch, with ever fewer frozen stages.

    Raises:
        RunError: If the backbone cannot be freed by stages, or the first step frees nothing.
    """

    def __init__(self, backbone: Any, steps: Sequence[UnfreezeRecipe]) -> None:
        self._steps = tuple(steps)
        self._backbone = backbone
        if not steps:
            return
        if not hasattr(self._backbone, "freeze_stages"):
            raise RunError(
                f"training.unfreeze: the backbone ({type(backbone).__name__}) has no method "
                "`freeze_stages`; take training.unfreeze out, or add it"
            )
        self._first = int(self._backbone.frozen_stages)
        if steps[0].frozen_stages >= self._first:
            raise RunError(
                f"training.unfreeze frees stages down to {steps[0].frozen_stages} frozen ones, but "
                f"the backbone begins with {self._first}; build it with more frozen stages"
            )

    def __bool__(self) -> bool:
        return bool(self._steps)

    def get_frozen_stages(self, epoch: int) -> int:
        """How many stages are frozen while `epoch` epochs are done."""
        passed = [step.frozen_stages for step in self._steps if step.epoch <= epoch]
        return passed[-1] if passed else self._first

    def enter_epoch(self, epoch: int) -> int | None:
        """Freezes what is frozen in an epoch; how many stages, where that changed something."""
        if not self._steps:
            return None
        target_stages = self.get_frozen_stages(epoch)
        if target_stages == self._backbone.frozen_stages:
            return None
        self._backbone.freeze_stages(target_stages)
        return target_stages

    @contextmanager
    def unfreeze_all(self) -> Iterator[None]:
        """All that is ever trained is trainable for the duration.

        The optimizer and the exchange of gradients between processes are built so: both pass over
        parameters without a gradient, and meet those that join later as if they had just begun.
        """
        if not self._steps:
            yield
            return
        self._backbone.freeze_stages(self._steps[-1].frozen_stages)
        try:
            yield
        finally:
            self._backbone.freeze_stages(self._first)
