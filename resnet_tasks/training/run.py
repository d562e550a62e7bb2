"""A run folder: all that one fine-tuning leaves, enough to predict, evaluate and go on.

recipe.yaml          the resolved recipe
classes.json         categories of the data set and classes of every head
log.jsonl            one JSON object per line: start, steps, epochs, end
checkpoints/last     model.safetensors, ema.safetensors (where averaged), state.pt
checkpoints/best     the same without state
operating_point.json thresholds chosen on val, where that was asked for
calibration.json     how confidences are scaled, where `calibrate` was asked for
evaluations/<split>  metrics.json, details.json, resamples.npz, predictions, pictures
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
from resnet_tasks.data.coco import read_coco
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.preparation import Preparation
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.evaluate import Evaluation
from resnet_tasks.evaluation.scaling import Scaling
from resnet_tasks.evaluation.sliding import SlidingWindows
from resnet_tasks.evaluation.views import Predictor
from resnet_tasks.evaluation.window_maps import Keep
from resnet_tasks.model import TaskModel, default_device, resolve_precision
from resnet_tasks.predict import predict_pictures
from resnet_tasks.recipe.load import load_recipe, recipe_to_yaml
from resnet_tasks.recipe.plugins import load_plugins
from resnet_tasks.recipe.schema import Recipe
from resnet_tasks.streaming.model_predictor import ModelPredictor
from resnet_tasks.streaming.stream import StreamOptions, Wanted, predict_all
from resnet_tasks.training.checkpoint import (
    fill,
    load_model_weights,
    make_folder,
    write_json,
    write_text,
)
from resnet_tasks.training.inference import PLAIN, Inference, read_calibration
from resnet_tasks.training.judging import (
    check_categories,
    file_sha256,
    judge,
    preparation_of,
    weights_sha256,
)
from resnet_tasks.training.split_leaks import require_unseen

Pictures = NDArray[Any] | str | Path
STREAMED = 4
"""Pictures that `predict` sends through the model together, unless evaluation.batch_size is set."""


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
    _predicting: dict[str, TaskModel] = field(default_factory=dict, repr=False)

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
        kept = recipe.model_copy(update={"plugins": _keep_plugins(recipe.plugins, directory)})
        write_text(directory / "recipe.yaml", recipe_to_yaml(kept))
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
        """How this run's pictures become samples."""
        return preparation_of(self.recipe)

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Head name -> class names, in label order."""
        return {name: each.classes for name, each in self.labels.heads.items()}

    @property
    def category_ids(self) -> dict[str, tuple[int, ...]]:
        """Head name -> category id of every label."""
        return {name: each.category_ids for name, each in self.labels.heads.items()}

    def checkpoint(self, name: str = "last") -> Path:
        """Folder of the checkpoint `last` or `best`."""
        if name not in ("last", "best"):
            raise RunError(f"{self.directory} keeps the checkpoints last and best, not {name!r}")
        return self.directory / "checkpoints" / name

    def model(self, checkpoint: str = "last") -> TaskModel:
        """The trained model, in evaluation mode; built once per checkpoint."""
        if checkpoint not in self._models:
            self._models[checkpoint] = self._built(checkpoint)
        return self._models[checkpoint]

    def _built(self, checkpoint: str) -> TaskModel:
        weights = load_model_weights(self.checkpoint(checkpoint))
        model = build_model(self.recipe, self.labels, weights="unloaded")
        fill(model, weights, self.checkpoint(checkpoint))
        device = default_device(self.recipe.training.device)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.eval()

    def _ready(self, checkpoint: str) -> TaskModel:
        """The trained model as one that only predicts; built once per checkpoint."""
        if checkpoint not in self._predicting:
            self._predicting[checkpoint] = self._built(checkpoint).ready_to_predict()
        return self._predicting[checkpoint]

    def predictor(
        self, checkpoint: str = "last", how: Inference = PLAIN, *, keep: Keep = "labels"
    ) -> Predictor:
        """The trained model, with what `how` and the recipe ask for around it.

        Args:
            checkpoint: `last` or `best`.
            how: Calibration, views and windows.
            keep: What is kept of pixels besides their labels, where they come in windows.

        Raises:
            DataError: If the views are unknown, or asked for together with windows.
            RunError: If a calibration is asked for that the run does not have for these weights.
        """
        how, recipe = replace(how, windows=how.windows or self.recipe.sliding), self.recipe
        return how.predictor(
            self._ready(checkpoint),
            self.require(checkpoint, how),
            batch_size=recipe.evaluation.batch_size or recipe.training.batch_size,
            keep=keep,
        )

    def require(self, checkpoint: str, how: Inference) -> dict[str, Scaling]:
        """The calibration that `how` asks for; empty where it asks for none.

        Raises:
            RunError: If the run has none for these weights.
        """
        if not how.calibrated:
            return {}
        return read_calibration(self.directory, weights_sha256(self.checkpoint(checkpoint)))

    def predict(
        self, image: Pictures, *, checkpoint: str = "last", how: Inference = PLAIN
    ) -> dict[str, Any]:
        """Predictions of all heads for one picture.

        Args:
            image: `(height, width)` or `(height, width, C)` array, RGB, as stored (uint8, uint16 or
                float); or a file.
            checkpoint: `last` or `best`.
            how: Calibration and views.

        Returns:
            Head name -> `Detections`, `SegmentationMap` (in pixels of that picture) or
            `Classification`.
        """
        preparation = self.preparation
        precision = self.recipe.training.precision
        model = self.predictor(checkpoint, how)
        if isinstance(image, (str, Path)):
            if isinstance(model, SlidingWindows):  # read in parts
                chosen = resolve_precision(precision, model.model.device)
                return model.predict(preparation.opened(Path(image)), precision=chosen)
            image = preparation.read(Path(image))
        return predict_pictures(model, [image], preparation, precision=precision)[0]

    def predict_paths(
        self,
        paths: Sequence[Path],
        *,
        out: Path,
        score: float | None = None,
        thresholds: Mapping[str, Sequence[float]] | None = None,
        checkpoint: str = "last",
        how: Inference = PLAIN,
        max_pixels: int | None = None,
        console: Console | None = None,
    ) -> Path:
        """Predicts files, folders and videos into `out`: COCO results, semantic PNGs and overlays.

        What was stopped on the way goes on where it was with the same call.

        Args:
            paths: Pictures, videos, or folders or patterns of them.
            out: Is made; `images.json` says which image id is which file, `bad_pictures.jsonl`
                which files could not be read.
            score: Detections below are left out; default: all are written, those from 0.5 are
                drawn.
            thresholds: Head -> least score of the detections of every label, in place of `score`.
            checkpoint: `last` or `best`.
            how: Calibration, views and windows.
            max_pixels: Larger pictures are refused; None: as the recipe says.
            console: For progress.

        Raises:
            DataError: If there is no picture, or none can be read.
            RunError: If `out` is in use, or holds an unfinished prediction that was made otherwise.
        """
        predict_all(
            self.stream_predictor(checkpoint, how, max_pixels),
            Wanted(tuple(paths)),
            out,
            settings=self.stream_settings(checkpoint, how, max_pixels),
            options=StreamOptions(score, thresholds),
            console=console,
        )
        return out

    def stream_predictor(
        self, checkpoint: str = "last", how: Inference = PLAIN, max_pixels: int | None = None
    ) -> ModelPredictor:
        """The trained model as a stream uses it; see `predict_paths`."""
        model, limit = self.predictor(checkpoint, how), max_pixels or self.recipe.data.max_pixels
        # Windows go through the model together, and big pictures should not wait in memory.
        batch_size = 1 if isinstance(model, SlidingWindows) else self.recipe.evaluation.batch_size
        return ModelPredictor(
            model,
            replace(self.preparation, max_pixels=limit),
            self.classes,
            self.category_ids,
            self.labels.categories.to_json(),
            precision=self.recipe.training.precision,
            batch_size=batch_size or STREAMED,
        )

    def stream_settings(
        self, checkpoint: str = "last", how: Inference = PLAIN, max_pixels: int | None = None
    ) -> dict[str, Any]:
        """What decides a stream's results: a restart with other settings is refused."""
        return {
            "weights": weights_sha256(self.checkpoint(checkpoint)),
            "inference": how.to_json(),
            "max_pixels": max_pixels or self.recipe.data.max_pixels,
        }

    def evaluate(
        self,
        split: Split = "val",
        *,
        annotations: Path | None = None,
        images: Path | None = None,
        checkpoint: str = "last",
        how: Inference = PLAIN,
        data_root: Path | None = None,
        console: Console | None = None,
        pictures: int = 12,
    ) -> Evaluation:
        """Judges a checkpoint and keeps metrics, predictions and pictures under `evaluations/`.

        Args:
            split: `train`, `val` or `test` of the recipe.
            annotations: A COCO file to judge on instead.
            images: Folder of that file's pictures; default: its own folder.
            checkpoint: `last` or `best`.
            how: Calibration, views and windows; each combination keeps its results apart.
            data_root: Folder that holds data sets; default `$RESNET_TASKS_DATA`, else `./data`.
            console: For progress.
            pictures: How many pictures to draw, truth beside prediction.

        Raises:
            DataError: If a file is wrong, or val or test hold what was trained on.
        """
        console = console or Console(stderr=True)
        model = self.predictor(checkpoint, how, keep="confidence")
        dataset = self.dataset(split, annotations=annotations, images=images, data_root=data_root)
        if annotations is None:
            require_unseen(self.recipe, split, dataset.files, data_root)
        folder = self.evaluation_folder(
            split, annotations=annotations, checkpoint=checkpoint, how=how
        )
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        evaluation = judge(
            model,
            dataset,
            partial,
            recipe=self.recipe,
            labels=self.labels,
            checkpoint=self.checkpoint(checkpoint),
            how=how,
            console=console,
            pictures=pictures,
        )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return evaluation

    def dataset(
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

    def evaluation_folder(
        self,
        split: Split = "val",
        *,
        annotations: Path | None = None,
        checkpoint: str = "last",
        how: Inference = PLAIN,
    ) -> Path:
        """Where `evaluate` with the same arguments keeps its results."""
        name: str = split
        if annotations is not None:
            name = f"file-{annotations.stem}-{file_sha256(annotations)[:8]}"
        if checkpoint != "last":
            name = f"{name}-{checkpoint}"
        return self.directory / "evaluations" / f"{name}{how.suffix}"


def _require_run_files(folder: Path) -> None:
    for name in ("recipe.yaml", "classes.json"):
        if not (folder / name).is_file():
            raise RunError(
                f"{folder} is not a run folder: it has no {name}; runs are made by "
                "`resnet-tasks finetune`"
            )


def _keep_plugins(plugins: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Copies the files among the plugins into the run, which must be enough by itself."""
    kept = []
    for number, plugin in enumerate(plugins):
        if not plugin.endswith(".py"):
            kept.append(plugin)
            continue
        name = f"plugins/{number}_{Path(plugin).name}"
        write_text(folder / name, Path(plugin).read_text(encoding="utf-8"))
        kept.append(name)
    return tuple(kept)


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
