"""Gradual unfreezing: stages of the backbone that join the training after some epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from resnet_tasks.errors import RunError
from resnet_tasks.recipe.schema import UnfreezeRecipe


class Unfreezing:
    """Which stages of a backbone are frozen in which epoch: a function of the epoch alone.

    Howard and Ruder 2018 ("ULMFiT", section 3.3) free a net from its last layer on, so that the
    first gradients of new heads do not destroy what was pretrained.

    Args:
        backbone: A module with `frozen_stages` and `freeze_stages`, where there are steps.
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

    def frozen_stages(self, epoch: int) -> int:
        """How many stages are frozen while `epoch` epochs are done."""
        passed = [each.frozen_stages for each in self._steps if each.epoch <= epoch]
        return passed[-1] if passed else self._first

    def enter(self, epoch: int) -> int | None:
        """Freezes what is frozen in an epoch; how many stages, where that changed something."""
        if not self._steps:
            return None
        wanted = self.frozen_stages(epoch)
        if wanted == self._backbone.frozen_stages:
            return None
        self._backbone.freeze_stages(wanted)
        return wanted

    @contextmanager
    def all_free(self) -> Iterator[None]:
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
