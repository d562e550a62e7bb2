"""A run folder: all that one fine-tuning leaves, enough to predict, evaluate and go on.

recipe.yaml          the resolved recipe
classes.json         categories of the data set and classes of every head
log.jsonl            one JSON object per line: start, steps, epochs, end
checkpoints/last     model.safetensors, ema.safetensors (where averaged), state.pt
checkpoints/best     the same without state
operating_point.json thresholds chosen on val, where that was asked for
calibration.json     how confidences are scaled, where `calibrate` was asked for
evaluations/<split>  metrics.json, details.json, resamples.npz, predictions, images
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.splits import Split, read_split
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.evaluate import Evaluation
from resnet_tasks.evaluation.metric_tables import compute_sha256
from resnet_tasks.evaluation.uncertainty.temperature_scaling import TemperatureScaling
from resnet_tasks.files.atomic import make_folder, write_json, write_text
from resnet_tasks.inference.merge_maps import Keep
from resnet_tasks.inference.predict_images import predict_images
from resnet_tasks.inference.sliding_window import SlidingWindows
from resnet_tasks.inference.streaming.model_predictor import ModelPredictor
from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions, predict_all
from resnet_tasks.inference.test_time_augmentation import Predictor
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.load import load_recipe, recipe_to_yaml
from resnet_tasks.recipe.plugins import load_plugins
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.checkpoint import load_model_weights, load_weights_into
from resnet_tasks.runs.evaluate_run import (
    build_preparation,
    check_categories,
    evaluate_and_save,
    weights_sha256,
)
from resnet_tasks.runs.inference_options import PLAIN_INFERENCE, InferenceOptions, read_calibration
from resnet_tasks.runs.leak_check import require_unseen
from resnet_tasks.runtime.devices import resolve_device, resolve_precision

Images = NDArray[Any] | str | Path
STREAM_BATCH_SIZE = 4
"""Images that `predict` sends through the model together, unless evaluation.batch_size is set."""


@dataclass
class Run:
    """An opened run folder.

    Attributes:
        directory: The folder.
        recipe: What was run.
        labels: Categories and the classes of every head.
    """

    directory: Path
    recipe: Recipe
    labels: Labels
    _models: dict[str, TaskModel] = field(default_factory=dict, repr=False)
    _prediction_models: dict[str, TaskModel] = field(default_factory=dict, repr=False)

    @classmethod
    def create(cls, directory: Path, recipe: Recipe, labels: Labels) -> Run:
        """Makes the folder.

        Raises:
            RunError: If it already holds a run, or cannot be made.
        """
        if (directory / "recipe.yaml").exists():
            has_checkpoint = (directory / "checkpoints").exists()
            remedy = f"continue it with `--resume {directory}`" if has_checkpoint else "remove it"
            state = "" if has_checkpoint else " that has no checkpoint yet"
            raise RunError(
                f"{directory} already holds a run{state}; {remedy} or choose another --out"
            )
        make_folder(directory)
        write_json(directory / "classes.json", labels.to_json())
        stored_recipe = recipe.model_copy(
            update={"plugins": _copy_plugins(recipe.plugins, directory)}
        )
        write_text(directory / "recipe.yaml", recipe_to_yaml(stored_recipe))
        return cls(directory, recipe, labels)

    @classmethod
    def open(cls, directory: Path | str, *, trust_plugins: bool = False) -> Run:
        """Opens a run folder.

        Args:
            directory: Made by `resnet-tasks finetune`.
            trust_plugins: Execute the recipe's `plugins:`.

        Raises:
            RunError: If it is not a run folder.
        """
        run = cls.read(Path(directory))
        load_plugins(run.recipe, run.directory, trust=trust_plugins)
        return run

    @classmethod
    def read(cls, directory: Path) -> Run:
        """What a run folder says of itself; runs no code of it.

        Raises:
            RunError: If it is not a run folder.
        """
        _require_run_files(directory)
        return cls(directory, load_recipe(directory / "recipe.yaml"), _read_labels(directory))

    @classmethod
    def reopen(cls, directory: Path, recipe: Recipe, labels: Labels) -> Run:
        """A run folder to go on with, held against what it was started with; runs no code of it.

        Raises:
            RunError: If it is not a run folder, or its recipe or categories are others.
        """
        _require_run_files(directory)
        if load_recipe(directory / "recipe.yaml") != recipe:
            raise RunError(
                f"the recipe is not that of the run {directory}; resume with the run's own recipe"
            )
        if _read_labels(directory) != labels:
            raise RunError(
                f"the data has other categories than the run {directory} was started with; see its "
                "classes.json"
            )
        return cls(directory, recipe, labels)

    @property
    def preparation(self) -> Preparation:
        """How this run's images become samples."""
        return build_preparation(self.recipe)

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Head name -> class names, in label order."""
        return {name: head_labels.classes for name, head_labels in self.labels.heads.items()}

    @property
    def category_ids(self) -> dict[str, tuple[int, ...]]:
        """Head name -> category id of every label."""
        return {name: head_labels.category_ids for name, head_labels in self.labels.heads.items()}

    def find_checkpoint(self, name: str = "last") -> Path:
        """Folder of the checkpoint `last` or `best`."""
        if name not in ("last", "best"):
            raise RunError(f"{self.directory} keeps the checkpoints last and best, not {name!r}")
        return self.directory / "checkpoints" / name

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
            out: Is made; `images.json` says which image id is which file, `bad_images.jsonl`
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

    def get_evaluation_folder(
        self,
        split: Split = "val",
        *,
        annotations: Path | None = None,
        checkpoint: str = "last",
        inference: InferenceOptions = PLAIN_INFERENCE,
    ) -> Path:
        """Where `evaluate` with the same arguments keeps its results."""
        name: str = split
        if annotations is not None:
            name = f"file-{annotations.stem}-{compute_sha256(annotations)[:8]}"
        if checkpoint != "last":
            name = f"{name}-{checkpoint}"
        return self.directory / "evaluations" / f"{name}{inference.suffix}"


def _require_run_files(folder: Path) -> None:
    for name in ("recipe.yaml", "classes.json"):
        if not (folder / name).is_file():
            raise RunError(
                f"{folder} is not a run folder: it has no {name}; runs are made by "
                "`resnet-tasks finetune`"
            )


def _copy_plugins(plugins: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Copies the files among the plugins into the run, which must be enough by itself."""
    copied_plugins = []
    for number, plugin in enumerate(plugins):
        if not plugin.endswith(".py"):
            copied_plugins.append(plugin)
            continue
        name = f"plugins/{number}_{Path(plugin).name}"
        write_text(folder / name, Path(plugin).read_text(encoding="utf-8"))
        copied_plugins.append(name)
    return tuple(copied_plugins)


def _read_labels(folder: Path) -> Labels:
    try:
        return Labels.from_json(json.loads((folder / "classes.json").read_text("utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise RunError(
            f"{folder / 'classes.json'} is damaged ({error}); restore it from a copy"
        ) from None


def load(directory: Path | str, *, trust_plugins: bool = False) -> Run:
    """Opens a run folder: `load("runs/...").predict(array)`.

    Args:
        directory: Made by `resnet-tasks finetune`.
        trust_plugins: Execute the recipe's `plugins:`.

    Raises:
        RunError: If it is not a run folder.
    """
    return Run.open(directory, trust_plugins=trust_plugins)
