"""Extension of a finished run by new heads: a new run takes over its backbone and heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_tasks.assemble.labels import HeadLabels, Labels, build_labels
from resnet_tasks.assemble.run_directory import RunDirectory
from resnet_tasks.backbone.pretrained import LoadReport
from resnet_tasks.backbone.weights_folders import read_license, split_checkpoint
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.errors import MAX_ALLOWED, RecipeError, RunError, format_allowed, format_list
from resnet_tasks.files.safe_names import require_head_names
from resnet_tasks.heads.base import HEADS
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.model import BackboneRecipe, ExtendRecipe, HeadRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.run_folder.checkpoint import load_model_weights, load_weights_into
from resnet_tasks.structures.evaluation import BACKGROUND

ALL_STAGES = 5


@dataclass(frozen=True)
class BaseRun:
    """Run that a recipe extends; on resume, the new run itself, which already has all heads.

    Attributes:
        run: Run to take weights, labels and heads from.
        checkpoint: Checkpoint of the run, `last` or `best`.
    """

    run: RunDirectory
    checkpoint: str

    @classmethod
    def from_recipe(cls, recipe: Recipe, resume: RunDirectory | None) -> BaseRun | None:
        """Open the run that a recipe extends.

        Args:
            recipe: Recipe of the new run.
            resume: Run to resume; None for a new run.

        Returns:
            The base run; None if the recipe extends no run.

        Raises:
            RunError: If the folder is not a run.
        """
        if recipe.extend is None:
            return None
        if resume is not None:
            return cls(resume, "last")
        folder, checkpoint = split_checkpoint(recipe.extend.run)
        return cls(RunDirectory.read(folder), checkpoint)

    def extend_recipe(self, recipe: Recipe, categories: CategoryMap) -> tuple[Recipe, CategoryMap]:
        """Return the recipe with all heads, new ones first, and the categories of all heads.

        Args:
            recipe: Recipe of the new heads; returned unchanged if it was extended before.
            categories: Categories of the new data, which determine the classes of the new heads.

        Raises:
            DataError: If the categories of the new data contradict those of the run.
            RecipeError: If the recipe sets something that the base run fixes.
        """
        merged = CategoryMap.merge([self.run.labels.categories, categories])
        return self._merge_heads(recipe, categories), merged

    def _merge_heads(self, recipe: Recipe, categories: CategoryMap) -> Recipe:
        extend = recipe.extend
        assert extend is not None, "the recipe extends a run"
        if extend.heads:
            return recipe
        old = self.run.recipe
        _refuse_fixed_settings(recipe, old, str(self.run.directory))
        heads = {
            name: _pin_classes(head, self.run.labels.heads[name].classes)
            for name, head in old.heads.items()
        }
        head_labels = build_labels(recipe, categories).heads
        new = {
            name: _pin_classes(head, head_labels[name].classes)
            for name, head in recipe.heads.items()
        }
        require_head_names([*new, *heads], f"heads and those of {self.run.directory}", RecipeError)
        parts = ("backbone", *(("pyramid",) if old.pyramid is not None else ()), *heads)
        frozen = parts if extend.freeze is None else extend.freeze
        for part in frozen:
            if part not in parts:
                raise RecipeError(
                    f"extend.freeze: {part!r} is not a part of {self.run.directory}, whose parts "
                    f"are {', '.join(parts)}"
                )
        values: dict[str, Any] = {
            "extend": ExtendRecipe(run=extend.run, freeze=tuple(frozen), heads=tuple(heads)),
            "backbone": old.backbone,
            "pyramid": old.pyramid,
            "heads": {**new, **heads},
            "data.normalize": old.data.normalize,
        }
        if "backbone" in frozen:
            if recipe.training.unfreeze:
                raise RecipeError(
                    "training.unfreeze unfreezes stages of the backbone, but extend.freeze keeps "
                    "the backbone frozen; remove one of the two"
                )
            values["backbone.frozen_stages"] = ALL_STAGES
        return replace_settings(recipe, values)

    def load_weights_into(self, model: TaskModel, labels: Labels) -> None:
        """Load the run's weights and buffers into a model that has its parts and the new heads.

        Args:
            model: Model of the extended recipe.
            labels: Labels of the extended recipe.

        Raises:
            RunError: If classes or tensors of the run do not match those of the model.
        """
        reused_heads = self.run.recipe.heads
        for name in reused_heads:
            before, now = self.run.labels.heads[name], labels.heads[name]
            if (before.classes, before.category_ids) != (now.classes, now.category_ids):
                raise RunError(
                    f"head {name} of {self.run.directory} has the classes "
                    f"{_list_from_difference(before, now)}, but with the new data it would have "
                    f"{_list_from_difference(now, before)}; give the categories their previous ids"
                )
        folder = self.run.find_checkpoint(self.checkpoint)
        weights = load_model_weights(folder)
        new = tuple(f"heads.{name}." for name in model.named_heads if name not in reused_heads)
        load_weights_into(model, weights, folder, kept=new)
        report = LoadReport(
            matched=tuple(weights),
            missing=tuple(key for key in model.state_dict() if key not in weights),
            unexpected=(),
            source=f"run {self.run.directory} ({self.checkpoint})",
            license=read_license(self.run.directory),
            mean=tuple(model.mean.tolist()),
            std=tuple(model.std.tolist()),
            notes=(
                (
                    f"reused: {', '.join(reused_heads)}; "
                    f"frozen: {', '.join(model.frozen) or 'nothing'}"
                ),
            ),
        )
        backbone: Any = model.backbone
        backbone.apply_load_report(report, len(model.mean))


def _pin_classes(head: HeadRecipe, classes: tuple[str, ...]) -> HeadRecipe:
    """Return a head with its classes listed by name, so that new data cannot change them."""
    class_names = classes[1:] if head.background and classes[0] == BACKGROUND else classes
    return replace_settings(head, {"classes": class_names})


def _refuse_fixed_settings(recipe: Recipe, old: Recipe, folder: str) -> None:
    """Reject a recipe that sets something that the base run fixes.

    Args:
        recipe: Recipe of the new heads.
        old: Recipe of the base run.
        folder: Path of the base run, for the error message.

    Raises:
        RecipeError: If the recipe sets one of them; the message has one line per problem.
    """
    problems = []
    if recipe.backbone not in (BackboneRecipe(), old.backbone):
        problems.append(
            "backbone: the run provides it; remove the key (extend.freeze sets whether it is "
            "trained)"
        )
    if recipe.pyramid not in (None, old.pyramid):
        problems.append("pyramid: the run provides it; remove the key")
    if recipe.model_weights is not None:
        problems.append("model_weights: the run provides the weights; remove the key")
    for name, head in old.heads.items():
        if name in recipe.heads:
            problems.append(f"heads.{name}: the run has a head with this name; choose another name")
        if head.type not in HEADS:
            problems.append(
                f"plugins: list those of the run ({', '.join(old.plugins)}), which define its head "
                f"{head.type!r}"
            )
    if recipe.data.channels != old.data.channels:
        problems.append(
            f"data.channels is {recipe.data.channels}, but the run has {old.data.channels}; set "
            f"data.channels: {old.data.channels}"
        )
    if recipe.data.normalize not in ("weights", old.data.normalize):
        problems.append("data.normalize: the run provides the constants; remove the key")
    if problems:
        raise RecipeError("\n".join(f"extend: {folder}: {problem}" for problem in problems))


def _list_from_difference(labels: HeadLabels, other: HeadLabels) -> str:
    """List the classes of a head; of many, the first ones that differ from the other labels."""
    classes = labels.classes
    if len(classes) <= MAX_ALLOWED:
        return format_allowed(classes)
    pairs = list(zip(labels.category_ids, classes, strict=True))
    other_pairs = set(zip(other.category_ids, other.classes, strict=True))
    different = [f"{name} (id {i})" for i, name in pairs if (i, name) not in other_pairs]
    # The same pairs in another order differ only in their positions.
    return f"{format_list(different or classes)} ({len(classes)} classes)"
