"""How a run predicts besides one plain forward: its calibration, and views of every image."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.uncertainty.temperature_scaling import TemperatureScaling
from resnet_tasks.inference.merge_maps import Keep
from resnet_tasks.inference.sliding_window import SlidingWindows
from resnet_tasks.inference.test_time_augmentation import Predictor, TtaPredictor, TtaViews
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.evaluation import SlidingRecipe

CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True)
class InferenceOptions:
    """What is done besides one forward; off unless asked for, so that numbers compare.

    Attributes:
        calibrated: Confidences go through the scaling that `calibrate` has kept in the run.
        tta_views: Test-time augmentation: `flips`, `scales` or `flips+scales`; None: none.
        windows: Images are predicted in these; None: as the recipe says.
    """

    calibrated: bool = False
    tta_views: str | None = None
    windows: SlidingRecipe | None = None

    @property
    def suffix(self) -> str:
        """Of folder names, so that evaluations made differently lie apart; empty when plain."""
        calibrated = "-calibrated" if self.calibrated else ""
        views = f"-{self.tta_views}" if self.tta_views else ""
        windows = self.windows
        if windows is None:
            return calibrated + views
        return f"{calibrated}{views}-{windows.height}x{windows.width}-{windows.overlap:g}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        windows = None if self.windows is None else self.windows.model_dump()
        return {"calibrated": self.calibrated, "views": self.tta_views, "windows": windows}

    def build_predictor(
        self,
        model: TaskModel,
        calibration: Mapping[str, TemperatureScaling],
        *,
        batch_size: int = 4,
        keep: Keep = "labels",
    ) -> Predictor:
        """`model` with what is asked for around it; itself where that is nothing.

        Args:
            model: Is not changed.
            calibration: Head name -> scaling; used where `calibrated`.
            batch_size: Windows per forward.
            keep: What is kept of pixels besides their labels, where they come in windows.

        Raises:
            DataError: If the views are unknown, or asked for together with windows.
            HeadError: If windows are asked for and a head sees images as a whole.
        """
        views = TtaViews.from_name(self.tta_views)
        if self.calibrated:
            model = copy.copy(model)  # shares all weights
            model.adjustments = {**model.adjustments, **calibration}
        if self.windows is None:
            return TtaPredictor(model, views) if len(views) > 1 else model
        if len(views) > 1:
            raise DataError(
                f"test-time augmentation ({self.tta_views}) does not go together with windows "
                "(data.tiles, evaluation.sliding, --tiles); leave one of them out"
            )
        return add_sliding_windows(model, self.windows, batch_size=batch_size, keep=keep)


PLAIN_INFERENCE = InferenceOptions()
"""One forward, nothing else."""


def add_sliding_windows(
    model: TaskModel, sliding: SlidingRecipe | None, *, batch_size: int, keep: Keep = "labels"
) -> TaskModel | SlidingWindows:
    """A model that predicts in the windows of a recipe; `model` itself where it has none.

    Raises:
        HeadError: If a head sees images as a whole.
    """
    if sliding is None:
        return model
    windows = WindowGrid(sliding.height, sliding.width, sliding.overlap)
    return SlidingWindows(model, windows, batch_size=batch_size, iou=sliding.nms_iou, keep=keep)


def read_calibration(run: Path, weights: str) -> dict[str, TemperatureScaling]:
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
        calibration: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        heads = {
            name: TemperatureScaling.from_json(scaling)
            for name, scaling in calibration["heads"].items()
        }
        fitted_to = calibration["weights"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged ({error}); run {remedy} again") from None
    if fitted_to != weights:
        raise RunError(
            f"{path} was fitted to other weights (the then {calibration.get('checkpoint')} "
            "checkpoint); "
            f"run {remedy} again, with the checkpoint that is to be used"
        )
    return heads
