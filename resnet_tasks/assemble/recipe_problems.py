"""Problems of a recipe that are found without data and weights; all are listed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from resnet_tasks.assemble.labels import Labels, build_combined_heads, build_labels
from resnet_tasks.assemble.model import build_backbone, build_model, select_unloaded_weights
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.evaluation.evaluators import choose_best_metric
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.model import BackboneRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.tasks import DescribedHead


@contextmanager
def list_all_problems(recipe: Recipe, categories: CategoryMap) -> Iterator[None]:
    """Add the problems of all other parts to an error that is raised inside the block.

    Args:
        recipe: Recipe that is built inside the block.
        categories: Categories of its data.

    Raises:
        RecipeError: If a part of the recipe is invalid; lists the problems of all parts, one per
            line.
    """
    try:
        yield
    except ResnetTasksError as error:
        problems = _find_part_problems(recipe, categories)
        if not problems:
            raise
        if str(error) not in problems:
            problems.insert(0, str(error))
        raise RecipeError("\n".join(problems)) from None


def _find_part_problems(recipe: Recipe, categories: CategoryMap) -> list[str]:
    """Build backbone, heads and augmentation separately, without weights; return their problems."""
    problems: list[str] = []

    def check_heads() -> None:
        # With a placeholder backbone, heads are checked even if the recipe's backbone is invalid.
        backbone = BackboneRecipe(name="resnet18") if problems else recipe.backbone
        plain = replace_settings(recipe, {"backbone": backbone})
        labels = build_labels(plain, categories)
        require_best_metric(plain, labels, build_model(plain, labels, weights="unloaded"))

    checks: tuple[Callable[[], object], ...] = (
        lambda: build_backbone(recipe.backbone, select_unloaded_weights(recipe)),
        check_heads,
        lambda: Augmentation(recipe.augment, recipe.data.channels),
    )
    for check in checks:
        try:
            check()
        except ResnetTasksError as error:
            problems.append(str(error))
    return problems


def require_best_metric(recipe: Recipe, labels: Labels, model: TaskModel) -> None:
    """Require that the metric that selects the best checkpoint exists.

    Raises:
        RecipeError: If no head or combiner has that metric.
    """
    combined = build_combined_heads(recipe, labels)
    heads: dict[str, DescribedHead] = {
        **model.named_heads,
        **{name: head.info for name, head in combined.items()},
    }
    choose_best_metric(heads, recipe.evaluation.best, recipe.evaluation.extra)
