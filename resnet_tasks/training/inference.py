"""How a run predicts besides one plain forward: its calibration, and views of every picture."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.scaling import Scaling
from resnet_tasks.evaluation.views import ManyViews, Predictor, Views
from resnet_tasks.model import TaskModel

CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True)
class Inference:
    """What is done besides one forward; both are off unless asked for, so that numbers compare.

    Attributes:
        calibrated: Confidences go through the scaling that `calibrate` has kept in the run.
        views: Test-time augmentation: `flips`, `scales` or `flips+scales`; None: none.
    """

    calibrated: bool = False
    views: str | None = None

    @property
    def suffix(self) -> str:
        """Of folder names, so that evaluations made differently lie apart; empty when plain."""
        calibrated = "-calibrated" if self.calibrated else ""
        return calibrated + (f"-{self.views}" if self.views else "")

    def predictor(self, model: TaskModel, calibration: Mapping[str, Scaling]) -> Predictor:
        """`model` with what is asked for around it; itself where that is nothing.

        Args:
            model: Is not changed.
            calibration: Head name -> scaling; used where `calibrated`.

        Raises:
            DataError: If the views are unknown.
        """
        views = Views.named(self.views)
        if self.calibrated:
            model = copy.copy(model)  # shares all weights
            model.adjustments = {**model.adjustments, **calibration}
        return ManyViews(model, views) if len(views) > 1 else model


PLAIN = Inference()
"""One forward, nothing else."""


def read_calibration(run: Path, weights: str) -> dict[str, Scaling]:
    """Head name -> scaling, as `calibrate` has kept it.

    Args:
        run: Folder.
        weights: Hash of the weights that are to be used.

    Raises:
        RunError: If the run is not calibrated, or was with other weights.
    """
    path = run / CALIBRATION_FILE
    remedy = f"`resnet-tasks calibrate {run}`"
    if not path.is_file():
        raise RunError(f"{run} is not calibrated: it has no {CALIBRATION_FILE}; run {remedy} first")
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        heads = {name: Scaling.from_json(each) for name, each in kept["heads"].items()}
        fitted_to = kept["weights"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged ({error}); run {remedy} again") from None
    if fitted_to != weights:
        raise RunError(
            f"{path} was fitted to other weights (the then {kept.get('checkpoint')} checkpoint); "
            f"run {remedy} again, with the checkpoint that is to be used"
        )
    return heads
