"""Trained model of a run folder, for prediction and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import torch

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.labels import build_combined_heads
from resnet_tasks.assemble.leak_check import require_unseen
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.run_directory import RunDirectory
from resnet_tasks.assemble.split_files import Split, read_split
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.evaluation.evaluate import Evaluation
from resnet_tasks.evaluation.uncertainty.temperature_scaling import TemperatureScaling
from resnet_tasks.files.atomic import replace_folder
from resnet_tasks.inference.combiners import add_combiners
from resnet_tasks.inference.image_inputs import ImageInput, ImageInputs, predict_inputs
from resnet_tasks.inference.predictor import Predictor
from resnet_tasks.inference.sliding_window import Keep
from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions, predict_all
from resnet_tasks.inference.streaming.stream_predictor import PredictorStream
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.model import TaskModel
from resnet_tasks.run_folder.checkpoint import load_model_weights, load_weights_into
from resnet_tasks.runs.evaluate_run import check_categories, evaluate_and_save, weights_sha256
from resnet_tasks.runs.evaluation_names import build_evaluation_name
from resnet_tasks.runs.inference_options import PLAIN_INFERENCE, InferenceOptions, read_calibration
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import resolve_device
from resnet_tasks.structures.image_result import ImageResult

STREAM_BATCH_SIZE = 4
"""Images per batch of `predict` and `predict_paths`, unless `evaluation.batch_size` is set."""


@dataclass
class Run(RunDirectory):
    """An opened run folder with its trained model.

    Attributes:
        directory: Path of the run folder.
        recipe: Resolved recipe of the run.
        labels: Categories of the dataset and classes of every head.
    """

    _models: dict[str, TaskModel] = field(default_factory=dict, repr=False)
    _prediction_models: dict[str, TaskModel] = field(default_factory=dict, repr=False)

    def load_model(self, checkpoint: str = "last") -> TaskModel:
        """Return the trained model in evaluation mode; it is built once per checkpoint."""
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
        """Return the trained model prepared for inference; it is built once per checkpoint."""
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
        """Return the trained model with the options of `inference` and the recipe's windows.

        Args:
            checkpoint: `last`, `best` or `best-HEAD`.
            inference: Calibration, test-time augmentation views and windows.
            keep: Values per pixel to keep for semantic maps that are predicted in windows:
                `labels`, also their `confidence`, or the `probs` of all classes.

        Raises:
            DataError: If the views are unknown, or combined with windows.
            RunError: If a calibration is requested that the run does not have for these weights.
        """
        inference, recipe = (
            replace(inference, windows=inference.windows or self.recipe.sliding),
            self.recipe,
        )
        model = self._load_prediction_model(checkpoint)
        predictor = inference.build_predictor(
            TorchOutputs(model, recipe.training.precision, self.category_ids),
            self.load_calibration(checkpoint, inference),
            batch_size=recipe.evaluation.batch_size or recipe.training.batch_size,
            keep=keep,
        )
        return add_combiners(predictor, build_combined_heads(recipe, self.labels))

    def load_calibration(
        self, checkpoint: str, inference: InferenceOptions
    ) -> dict[str, TemperatureScaling]:
        """Return the calibration that `inference` requests; empty if it requests none.

        Raises:
            RunError: If the run has no calibration for these weights.
        """
        if not inference.calibrated:
            return {}
        weights = weights_sha256(self.find_checkpoint(checkpoint))
        return read_calibration(self.directory, weights, self.recipe.heads)

    @overload
    def predict(
        self, image: ImageInput, *, checkpoint: str = ..., inference: InferenceOptions = ...
    ) -> ImageResult: ...

    @overload
    def predict(
        self, image: ImageInputs, *, checkpoint: str = ..., inference: InferenceOptions = ...
    ) -> list[ImageResult]: ...

    def predict(
        self,
        image: ImageInput | ImageInputs,
        *,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
    ) -> ImageResult | list[ImageResult]:
        """Return the predictions of all heads for one image, or for each image of a list.

        Args:
            image: Path of an image file; `(height, width)`, `(height, width, C)` or `(C, height,
                width)` NumPy array or torch tensor in RGB order with the stored values (uint8,
                uint16 or float); Pillow image; or a list of them, which is processed in batches.
            checkpoint: `last`, `best` or `best-HEAD`.
            inference: Calibration, test-time augmentation views and windows.

        Returns:
            Head name -> prediction, in pixels of that image; for a list, a list of them.

        Raises:
            DataError: If an image cannot be read, does not fit the model, or is ambiguous.
        """
        predictor = self.build_predictor(checkpoint, inference)
        batch_size = self.recipe.evaluation.batch_size or STREAM_BATCH_SIZE
        return predict_inputs(predictor, image, self.preparation, batch_size=batch_size)

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
        """Predict images and videos: write COCO results, semantic PNGs and overlays into `out`.

        An interrupted prediction is resumed by the same call.

        Args:
            paths: Images, videos, or folders or patterns of them.
            out: Folder that is created; its `images.json` maps image ids to files, and
                `unreadable_images.jsonl` lists the files that could not be read.
            score: Minimum score of detections; default: all are written, and those with a score of
                at least 0.5 are drawn.
            thresholds: Head name -> minimum score of detections for every label; replaces `score`.
            checkpoint: `last`, `best` or `best-HEAD`.
            inference: Calibration, test-time augmentation views and windows.
            max_pixels: Maximum number of pixels per image; larger images are rejected; None: the
                limit of the recipe.
            console: Console for progress.

        Raises:
            DataError: If there is no image, or no image can be read.
            RunError: If `out` is in use, or has an unfinished prediction with other settings.
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
    ) -> PredictorStream:
        """Return the trained model as a predictor for streams of images; see `predict_paths`."""
        predictor = self.build_predictor(checkpoint, inference)
        # The windows of an image already form batches, and large images should not wait in memory.
        batch_size = 1 if predictor.reads_regions else self.recipe.evaluation.batch_size
        return PredictorStream(
            predictor,
            replace(self.preparation, max_pixels=max_pixels or self.recipe.data.max_pixels),
            self.labels.categories.to_json(),
            batch_size=batch_size or STREAM_BATCH_SIZE,
        )

    def get_stream_settings(
        self,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
        max_pixels: int | None = None,
    ) -> dict[str, Any]:
        """Return the settings that affect a stream's results.

        An interrupted stream cannot be resumed with other settings.
        """
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
        """Evaluate a checkpoint and store metrics, predictions and images under `evaluations/`.

        Args:
            split: `train`, `val` or `test` of the recipe.
            annotations: Path of a COCO JSON file to evaluate on instead of the split.
            images: Path of the image folder of that file; default: the folder of the file.
            checkpoint: `last`, `best` or `best-HEAD`.
            inference: Calibration, test-time augmentation views and windows; the results of each
                combination are stored in a separate folder.
            data_root: Folder that holds the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
            console: Console for progress; default: stderr.
            num_drawings: Number of images to draw, ground truth next to prediction.

        Raises:
            DataError: If a file is invalid, or val or test contain training images.
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
        with replace_folder(folder) as partial:
            return evaluate_and_save(
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

    def get_evaluation_folder(
        self,
        split: Split = "val",
        *,
        annotations: Path | None = None,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
    ) -> Path:
        """Return the folder in which `evaluate` with the same arguments stores its results."""
        name = build_evaluation_name(split, annotations, checkpoint, inference.suffix)
        return self.directory / "evaluations" / name

    def load_dataset(
        self,
        split: Split = "val",
        *,
        annotations: Path | None = None,
        images: Path | None = None,
        data_root: Path | None = None,
    ) -> CocoDataset:
        """Return the dataset that `evaluate` with the same arguments evaluates on.

        Raises:
            DataError: If a file is missing or invalid.
            RunError: If a file has categories that the run does not have.
        """
        if annotations is not None:
            files = [read_coco(annotations, images_root=images)]
        else:
            files = read_split(self.recipe, split, data_root)
        for file in files:
            check_categories(file, self.labels, self.directory)
        return build_dataset(self.recipe, files, self.labels.categories)


def load(directory: Path | str, *, trust_plugins: bool = False) -> Run:
    """Open a run folder: `load("runs/...").predict(array)`.

    Args:
        directory: Path of a folder that `resnet-tasks finetune` created.
        trust_plugins: Whether to execute the code in the recipe's `plugins:`.

    Raises:
        RunError: If it is not a run folder.
    """
    return Run.open(directory, trust_plugins=trust_plugins)
