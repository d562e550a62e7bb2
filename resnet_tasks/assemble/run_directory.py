"""Run folder: all files of one fine-tuning, enough to predict, evaluate and resume.

recipe.yaml          resolved recipe
classes.json         categories of the dataset and classes of every head
data.json            hashes of the annotation files and fingerprints of the images
log.jsonl            one JSON object per line: start, steps, epochs, end
checkpoints/last     model.safetensors, ema.safetensors (if weights are averaged), state.pt
checkpoints/best     the same without state.pt
operating_point.json thresholds chosen on val by `operating-point` (optional)
calibration.json     scaling of the confidences by `calibrate` (optional)
evaluations/<split>  metrics.json, details.json, resamples.npz, predictions, images
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from resnet_tasks.assemble.datasets import build_preparation
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError, RecipeError, RunError, format_allowed
from resnet_tasks.files.atomic import make_folder, write_json, write_text
from resnet_tasks.recipe.load import load_recipe, recipe_to_yaml
from resnet_tasks.recipe.plugins import copy_plugins, load_plugins
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.run_folder.checkpoint import CHECKPOINTS, name_head_checkpoint
from resnet_tasks.run_folder.files import CLASSES, RECIPE
from resnet_tasks.run_folder.read import make_damage_error, make_folder_error, read_object


def has_checkpoint(directory: Path) -> bool:
    """Return whether a run folder contains a complete checkpoint, possibly moved aside."""
    files = (directory / "checkpoints").glob("*/model.safetensors")
    return any(not file.parent.name.startswith(".") for file in files)  # hidden: unfinished


def _can_start_again(directory: Path, recipe: Recipe) -> bool:
    """Return whether a folder holds a run of the recipe that has not trained anything."""
    if has_checkpoint(directory) or (directory / "log.jsonl").exists():
        return False
    try:
        earlier = load_recipe(directory / "recipe.yaml")
    except RecipeError:
        return False
    # The earlier run names its own copies of the plugins.
    return earlier.model_dump(exclude={"plugins"}) == recipe.model_dump(exclude={"plugins"})


@dataclass
class RunDirectory:
    """A run folder without its model.

    Attributes:
        directory: Path of the run folder.
        recipe: Resolved recipe of the run.
        labels: Categories of the dataset and classes of every head.
    """

    directory: Path
    recipe: Recipe
    labels: Labels

    @classmethod
    def create(cls, directory: Path, recipe: Recipe, labels: Labels) -> Self:
        """Create the run folder with its recipe, classes and plugins.

        A run of the same recipe that ended before its first checkpoint, for example because the
        disk was full, is started again.

        Raises:
            RunError: If the folder already holds a run, or cannot be created.
        """
        if (directory / "recipe.yaml").exists() and not _can_start_again(directory, recipe):
            has_begun = has_checkpoint(directory)
            remedy = f"continue it with `--resume {directory}`" if has_begun else "remove it"
            state = "" if has_begun else " that has no checkpoint yet"
            raise RunError(
                f"{directory} already contains a run{state}; {remedy}, or choose another --out"
            )
        make_folder(directory)
        write_json(directory / "classes.json", CLASSES.add_version(labels.to_json()))
        plugins = copy_plugins(recipe.plugins, directory)
        write_text(directory / "recipe.yaml", recipe_to_yaml(recipe, plugins))
        return cls(directory, recipe, labels)

    @classmethod
    def open(cls, directory: Path | str, *, trust_plugins: bool = False) -> Self:
        """Open a run folder and load its plugins.

        Args:
            directory: Path of a folder that `resnet-tasks finetune` created.
            trust_plugins: Whether to execute the code in the recipe's `plugins:`.

        Raises:
            RunError: If it is not a run folder.
        """
        run = cls.read(Path(directory))
        load_plugins(run.recipe, run.directory, trust=trust_plugins)
        return run

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read recipe and labels of a run folder without executing its plugins.

        Raises:
            RunError: If it is not a run folder.
        """
        _require_run_files(directory)
        return cls(directory, load_recipe(directory / "recipe.yaml"), _read_labels(directory))

    def require_unchanged(self, recipe: Recipe, labels: Labels) -> None:
        """Require that a resumed training has the recipe and the categories of this run.

        Raises:
            RunError: If recipe, categories or classes differ.
        """
        if self.recipe != recipe:
            raise RunError(
                f"the recipe differs from that of the run {self.directory}; resume with the run's "
                "recipe"
            )
        if self.labels != labels:
            raise RunError(
                f"the categories of the data differ from those that the run {self.directory} was "
                "started with; see classes.json of the run"
            )

    @property
    def preparation(self) -> Preparation:
        """Preparation that turns this run's images into samples."""
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
        """Return the path of the checkpoint `last`, `best` or `best-HEAD`.

        Raises:
            RunError: If the run cannot have this checkpoint.
        """
        heads = [*self.recipe.heads, *self.recipe.combine]
        head_checkpoints = [name_head_checkpoint(head) for head in heads]
        allowed = [*CHECKPOINTS, *head_checkpoints]
        if name not in allowed:
            raise RunError(
                f"{self.directory} has no checkpoint {name!r}; allowed: {format_allowed(allowed)}"
            )
        if name in head_checkpoints and not self.recipe.evaluation.best_per_head:
            raise RunError(
                f"{self.directory} has no checkpoint {name!r}, because it was trained without "
                "evaluation.best_per_head; use last or best"
            )
        return self.directory / "checkpoints" / name


def _require_run_files(folder: Path) -> None:
    for file in (RECIPE, CLASSES):
        path = folder / file.name
        if not path.exists():
            raise RunError(
                f"{folder} is not a run folder: it has no {file.name}; `resnet-tasks finetune` "
                "creates run folders"
            )
        if path.is_dir():
            raise make_folder_error(path, file)


def _read_labels(folder: Path) -> Labels:
    path = folder / "classes.json"
    try:
        return Labels.from_json(read_object(path, CLASSES))
    except DataError as error:
        raise make_damage_error(path, CLASSES, str(error)) from None
