"""Inference options beyond a plain forward pass: calibration, test-time augmentation, windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.errors import DataError, RunError, format_allowed, format_list
from resnet_tasks.evaluation.uncertainty.temperature_scaling import TemperatureScaling
from resnet_tasks.inference.outputs_model import CalibratedOutputs, OutputsModel
from resnet_tasks.inference.predictor import Predictor, WholeImagePredictor
from resnet_tasks.inference.sliding_window import Keep, SlidingWindowPredictor
from resnet_tasks.inference.test_time_augmentation import TtaPredictor, TtaViews
from resnet_tasks.recipe.schema.evaluation import SlidingRecipe
from resnet_tasks.run_folder.files import CALIBRATION
from resnet_tasks.run_folder.read import make_damage_error, read_object

CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True)
class InferenceOptions:
    """Steps around the forward pass; all are off by default, so that metrics stay comparable.

    Attributes:
        calibrated: Whether confidences go through the scaling that `calibrate` stored in the run.
        tta_views: Views of test-time augmentation: `flips`, `scales` or `flips+scales`; None: no
            test-time augmentation.
        windows: Sliding windows that images are predicted in; None: the windows of the recipe, if
            it has any.
    """

    calibrated: bool = False
    tta_views: str | None = None
    windows: SlidingRecipe | None = None

    @property
    def suffix(self) -> str:
        """Suffix of folder names that separates evaluations by options; empty by default."""
        calibrated = "-calibrated" if self.calibrated else ""
        views = f"-{self.tta_views}" if self.tta_views else ""
        windows = self.windows
        if windows is None:
            return calibrated + views
        return f"{calibrated}{views}-{windows.height}x{windows.width}-{windows.overlap:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain values for JSON."""
        windows = None if self.windows is None else self.windows.model_dump()
        return {"calibrated": self.calibrated, "views": self.tta_views, "windows": windows}

    def build_predictor(
        self,
        model: OutputsModel,
        calibration: Mapping[str, TemperatureScaling],
        *,
        batch_size: int = 4,
        keep: Keep = "labels",
    ) -> Predictor:
        """Return the predictor of a model with these options.

        Args:
            model: Trained model.
            calibration: Head name -> scaling; used if `calibrated`.
            batch_size: Number of windows per forward pass.
            keep: Values per pixel to keep for semantic maps that are predicted in windows:
                `labels`, also their `confidence`, or the `probs` of all classes.

        Raises:
            DataError: If the views are unknown, or combined with windows.
            HeadError: If windows are requested and a head classifies whole images.
        """
        views = TtaViews.from_name(self.tta_views)
        if self.calibrated:
            model = CalibratedOutputs(model, calibration)
        predictor = build_window_predictor(model, self.windows, batch_size=batch_size, keep=keep)
        if len(views) == 1:
            return predictor
        if self.windows is not None:
            raise DataError(
                f"test-time augmentation ({self.tta_views}) cannot be combined with windows "
                "(data.tiles, evaluation.sliding, --tiles); use only one of them"
            )
        return TtaPredictor(predictor, views)


PLAIN_INFERENCE = InferenceOptions()
"""Options of a single forward pass without further steps."""


def build_window_predictor(
    model: OutputsModel, sliding: SlidingRecipe | None, *, batch_size: int, keep: Keep = "labels"
) -> Predictor:
    """Return a predictor with the windows of a recipe; of whole images if the recipe has none.

    Raises:
        HeadError: If a head classifies whole images.
    """
    if sliding is None:
        return WholeImagePredictor(model)
    windows = WindowGrid(sliding.height, sliding.width, sliding.overlap)
    return SlidingWindowPredictor(
        model, windows, batch_size=batch_size, iou=sliding.nms_iou, keep=keep
    )


def read_calibration(
    run: Path, weights: str, heads: Collection[str]
) -> dict[str, TemperatureScaling]:
    """Return head name -> scaling from the run's `calibration.json`.

    Args:
        run: Path of the run folder.
        weights: SHA-256 hex digest of the weights that will predict.
        heads: Names of the run's heads.

    Raises:
        RunError: If the run is not calibrated, its calibration is damaged or names an unknown head,
            or it was calibrated with other weights.
    """
    path = run / CALIBRATION_FILE
    remedy = f"`resnet-tasks calibrate {run}`"
    if not path.exists():
        raise RunError(f"{run} is not calibrated: it has no {CALIBRATION_FILE}; run {remedy} first")
    advice = f"run {remedy} again"
    calibration = read_object(path, CALIBRATION, advice)
    try:
        scalings = {
            name: _read_scaling(name, scaling) for name, scaling in calibration["heads"].items()
        }
    except ValueError as error:
        raise make_damage_error(path, CALIBRATION, str(error), advice) from None
    if calibration["weights"] != weights:
        raise RunError(
            f"{path} was fitted to other weights (an earlier checkpoint "
            f"{calibration.get('checkpoint')!r}); run {remedy} again with the checkpoint to use"
        )
    unknown = [name for name in scalings if name not in heads]
    if unknown:
        raise RunError(
            f"{path} calibrates {format_list(unknown)}, but the heads of the run are "
            f"{format_allowed(heads)}; run {remedy} again"
        )
    return scalings


def _read_scaling(head: str, plain: Mapping[str, Any]) -> TemperatureScaling:
    """Return the scaling of a head.

    Raises:
        ValueError: If a value is not allowed.
    """
    try:
        return TemperatureScaling.from_json(plain)
    except ValueError as error:
        raise ValueError(f"heads.{head}.{error}") from None
