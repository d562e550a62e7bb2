"""A run: the trained model of a run folder, which predicts and is evaluated."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.split_files import Split, read_split
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.evaluation.evaluate import Evaluation
from resnet_tasks.evaluation.uncertainty.temperature_scaling import TemperatureScaling
from resnet_tasks.inference.merge_maps import Keep
from resnet_tasks.inference.predict_images import predict_images
from resnet_tasks.inference.sliding_window import SlidingWindows
from resnet_tasks.inference.streaming.model_predictor import ModelPredictor
from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions, predict_all
from resnet_tasks.inference.test_time_augmentation import Predictor
from resnet_tasks.model import TaskModel
from resnet_tasks.runs.checkpoint import load_model_weights, load_weights_into
from resnet_tasks.runs.evaluate_run import check_categories, evaluate_and_save, weights_sha256
from resnet_tasks.runs.inference_options import PLAIN_INFERENCE, InferenceOptions, read_calibration
from resnet_tasks.runs.leak_check import require_unseen
from resnet_tasks.runs.run_directory import RunDirectory
from resnet_tasks.runtime.devices import resolve_device, resolve_precision

Images = NDArray[Any] | str | Path
STREAM_BATCH_SIZE = 4
"""Images that `predict` sends through the model together, unless evaluation.batch_size is set."""


@dataclass
class Run(RunDirectory):
    """An opened run folder with its trained model.

    Attributes:
        directory: The folder.
        recipe: What was run.
        labels: Categories and the classes of every head.
    """

    _models: dict[str, TaskModel] = field(default_factory=dict, repr=False)
    _prediction_models: dict[str, TaskModel] = field(default_factory=dict, repr=False)

    def load_model(self, checkpoint: str = "last") -> TaskModel:
        """The trained model, in evaluation mode; built once per checkpoint."""
        if checkpoint not in self._models:
            self._models[checkpoint] = self._build_model(checkpoint)
        return self._models[checkpoint]

    def _build_model(self, checkpoint: str) -> TaskModel:
        weights = load_model_weights(self.find_checkpoint(checkpoint))
        model = build_model(self.recipe, self.labels, weights="unloaded")
        load_weights_into(model, weights, self.find_checkpoint(checkpoint))
        device = resolve_device(self.recipe.training.device)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.eval()

    def _load_prediction_model(self, checkpoint: str) -> TaskModel:
        """The trained model as one that only predicts; built once per checkpoint."""
        if checkpoint not in self._prediction_models:
            self._prediction_models[checkpoint] = self._build_model(
                checkpoint
            ).prepare_for_inference()
        return self._prediction_models[checkpoint]

    def build_predictor(
        self,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
        *,
        keep: Keep = "labels",
    ) -> Predictor:
        """The trained model, with what `inference` and the recipe ask for around it.

        Args:
            checkpoint: `last` or `best`.
            inference: Calibration, views and windows.
            keep: What is kept of pixels besides their labels, where they come in windows.

        Raises:
            DataError: If the views are unknown, or asked for together with windows.
            RunError: If a calibration is asked for that the run does not have for these weights.
        """
        inference, recipe = (
            replace(inference, windows=inference.windows or self.recipe.sliding),
            self.recipe,
        )
        return inference.build_predictor(
            self._load_prediction_model(checkpoint),
            self.load_calibration(checkpoint, inference),
            batch_size=recipe.evaluation.batch_size or recipe.training.batch_size,
            keep=keep,
        )

    def load_calibration(
        self, checkpoint: str, inference: InferenceOptions
    ) -> dict[str, TemperatureScaling]:
        """The calibration that `inference` asks for; empty where it asks for none.

        Raises:
            RunError: If the run has none for these weights.
        """
        if not inference.calibrated:
            return {}
        return read_calibration(self.directory, weights_sha256(self.find_checkpoint(checkpoint)))

    def predict(
        self,
        image: Images,
        *,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
    ) -> dict[str, Any]:
        """Predictions of all heads for one image.

        Args:
            image: `(height, width)` or `(height, width, C)` array, RGB, as stored (uint8, uint16 or
                float); or a file.
            checkpoint: `last` or `best`.
            inference: Calibration and views.

        Returns:
            Head name -> `Detections`, `SegmentationMap` (in pixels of that image) or
            `Classification`.
        """
        preparation = self.preparation
        precision = self.recipe.training.precision
        model = self.build_predictor(checkpoint, inference)
        if isinstance(image, (str, Path)):
            if isinstance(model, SlidingWindows):  # read in parts
                resolved_precision = resolve_precision(precision, model.model.device)
                return model.predict(
                    preparation.open_image(Path(image)), precision=resolved_precision
                )
            image = preparation.read(Path(image))
        return predict_images(model, [image], preparation, precision=precision)[0]

    def predict_paths(
        self,
        paths: Sequence[Path],
        *,
        out: Path,
        score: float | None = None,
        thresholds: Mapping[str, Sequence[float]] | None = None,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
        max_pixels: int | None = None,
        console: Console | None = None,
    ) -> Path:
        """Predicts files, folders and videos into `out`: COCO results, semantic PNGs and overlays.

        What was stopped on the way goes on where it was with the same call.

        Args:
            paths: Images, videos, or folders or patterns of them.
            out: Is made; `images.json` says which image id is which file, `unreadable_images.jsonl`
                which files could not be read.
            score: Detections below are left out; default: all are written, those from 0.5 are
                drawn.
            thresholds: Head -> least score of the detections of every label, in place of `score`.
            checkpoint: `last` or `best`.
            inference: Calibration, views and windows.
            max_pixels: Larger images are refused; None: as the recipe says.
            console: For progress.

        Raises:
            DataError: If there is no image, or none can be read.
            RunError: If `out` is in use, or holds an unfinished prediction that was made otherwise.
        """
        predict_all(
            self.build_stream_predictor(checkpoint, inference, max_pixels),
            PredictionRequest(tuple(paths)),
            out,
            settings=self.get_stream_settings(checkpoint, inference, max_pixels),
            options=StreamOptions(score, thresholds),
            console=console,
        )
        return out

    def build_stream_predictor(
        self,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
        max_pixels: int | None = None,
    ) -> ModelPredictor:
        """The trained model as a stream uses it; see `predict_paths`."""
        model, limit = (
            self.build_predictor(checkpoint, inference),
            max_pixels or self.recipe.data.max_pixels,
        )
        # Windows go through the model together, and big images should not wait in memory.
        batch_size = 1 if isinstance(model, SlidingWindows) else self.recipe.evaluation.batch_size
        return ModelPredictor(
            model,
            replace(self.preparation, max_pixels=limit),
            self.classes,
            self.category_ids,
            self.labels.categories.to_json(),
            precision=self.recipe.training.precision,
            batch_size=batch_size or STREAM_BATCH_SIZE,
        )

    def get_stream_settings(
        self,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
        max_pixels: int | None = None,
    ) -> dict[str, Any]:
        """What decides a stream's results: a restart with other settings is refused."""
        return {
            "weights": weights_sha256(self.find_checkpoint(checkpoint)),
            "inference": inference.to_json(),
            "max_pixels": max_pixels or self.recipe.data.max_pixels,
        }

    def evaluate(
        self,
        split: Split = "val",
        *,
        annotations: Path | None = None,
        images: Path | None = None,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
        data_root: Path | None = None,
        console: Console | None = None,
        num_drawings: int = 12,
    ) -> Evaluation:
        """Judges a checkpoint and keeps metrics, predictions and images under `evaluations/`.

        Args:
            split: `train`, `val` or `test` of the recipe.
            annotations: A COCO file to judge on instead.
            images: Folder of that file's images; default: its own folder.
            checkpoint: `last` or `best`.
            inference: Calibration, views and windows; each combination keeps its results apart.
            data_root: Folder that holds data sets; default `$RESNET_TASKS_DATA`, else `./data`.
            console: For progress.
            num_drawings: How many images to draw, truth beside prediction.

        Raises:
            DataError: If a file is wrong, or val or test hold what was trained on.
        """
        console = console or Console(stderr=True)
        model = self.build_predictor(checkpoint, inference, keep="confidence")
        dataset = self.load_dataset(
            split, annotations=annotations, images=images, data_root=data_root
        )
        if annotations is None:
            require_unseen(self.recipe, split, dataset.files, data_root)
        folder = self.get_evaluation_folder(
            split, annotations=annotations, checkpoint=checkpoint, inference=inference
        )
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        evaluation = evaluate_and_save(
            model,
            dataset,
            partial,
            recipe=self.recipe,
            labels=self.labels,
            checkpoint=self.find_checkpoint(checkpoint),
            inference=inference,
            console=console,
            num_drawings=num_drawings,
        )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return evaluation

    def load_dataset(
        self,
        split: Split = "val",
        *,
        annotations: Path | None = None,
        images: Path | None = None,
        data_root: Path | None = None,
    ) -> CocoDataset:
        """What `evaluate` with the same arguments judges on.

        Raises:
            DataError: If a file is missing or wrong.
            RunError: If it has categories that the run does not know.
        """
        if annotations is not None:
            files = [read_coco(annotations, images_root=images)]
        else:
            files = read_split(self.recipe, split, data_root)
        for file in files:
            check_categories(file, self.labels, self.directory)
        return build_dataset(self.recipe, files, self.labels.categories)


def load(directory: Path | str, *, trust_plugins: bool = False) -> Run:
    """Opens a run folder: `load("runs/...").predict(array)`.

    Args:
        directory: Made by `resnet-tasks finetune`.
        trust_plugins: Execute the recipe's `plugins:`.

    Raises:
        RunError: If it is not a run folder.
    """
    return Run.open(directory, trust_plugins=trust_plugins)
