"""Labels of each head: its classes, and the mapping from the dataset's categories to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnet_tasks.assemble.combiners import build_combiners
from resnet_tasks.assemble.heads import get_head_task
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.errors import DataError, RecipeError, format_allowed
from resnet_tasks.files.safe_names import require_class_names, require_head_names
from resnet_tasks.inference.combiners import CombinedHead
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.model import HeadRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.structures.evaluation import ABSENT, BACKGROUND, IGNORED, VOID
from resnet_tasks.structures.input_images import HeadInfo
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.tasks import Task
from resnet_tasks.visualization.colors import Color, assign_class_colors


@dataclass(frozen=True)
class HeadLabels:
    """Classes of a head and the mapping from categories to labels.

    Attributes:
        classes: Class names, in label order.
        category_ids: Category ids in the COCO file, in label order; 0 for a background class.
        table: Mapping from the dataset's category indices to the head's labels.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    table: LabelTable


@dataclass(frozen=True)
class Labels:
    """Categories of a dataset and labels of every head; stored as a run's `classes.json`."""

    categories: CategoryMap
    heads: dict[str, HeadLabels]

    @property
    def class_colors(self) -> dict[str, Color]:
        """Class name -> color in all drawings, charts and files of the run."""
        classes = (head_labels.classes for head_labels in self.heads.values())
        return assign_class_colors(self.categories.names, *classes)

    def to_json(self) -> dict[str, Any]:
        """Return the labels as plain lists and dicts."""
        return {
            "categories": self.categories.to_json(),
            "heads": {
                name: {
                    "classes": list(head_labels.classes),
                    "category_ids": list(head_labels.category_ids),
                    "mapping": list(head_labels.table.mapping),
                    "unlabeled": head_labels.table.unlabeled,
                }
                for name, head_labels in self.heads.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Labels:
        """Return the labels from their JSON form; the inverse of `to_json`.

        Raises:
            DataError: If the name of a head or a class is invalid, or a label does not exist.
        """
        require_head_names(value["heads"], "heads")
        categories = CategoryMap.from_json(value["categories"])
        heads = {}
        for name, head_json in value["heads"].items():
            classes = tuple(head_json["classes"])
            require_class_names(classes, f"heads.{name}.classes")
            table = LabelTable(classes, tuple(head_json["mapping"]), int(head_json["unlabeled"]))
            heads[name] = HeadLabels(classes, tuple(head_json["category_ids"]), table)
            _require_valid_labels(name, heads[name], len(categories.categories))
        return cls(categories, heads)


def _require_valid_labels(name: str, head: HeadLabels, num_categories: int) -> None:
    """Require an id for every class, and an existing label for every category of a head."""
    num_classes, mapping = len(head.classes), head.table.mapping
    if len(head.category_ids) != num_classes:
        raise DataError(
            f"heads.{name}.category_ids must have one id for each of "
            f"{Count(num_classes):class}, got {len(head.category_ids)}"
        )
    if len(mapping) != num_categories:
        raise DataError(
            f"heads.{name}.mapping must have one label for each of "
            f"{Count(num_categories):category}, got {len(mapping)}"
        )
    labels = (*mapping, head.table.unlabeled)
    invalid = [label for label in labels if not ABSENT <= label < num_classes]
    if invalid:
        raise DataError(
            f"heads.{name}: the label {invalid[0]} does not exist; allowed: {ABSENT} to "
            f"{num_classes - 1}"
        )


def build_labels(recipe: Recipe, categories: CategoryMap) -> Labels:
    """Build the labels of each head and combiner of the recipe from the dataset's categories.

    Raises:
        RecipeError: If a class is unknown, or an option does not fit the head's task.
    """
    heads = {
        name: _build_head_labels(name, head, get_head_task(name, head), categories)
        for name, head in recipe.heads.items()
    }
    combined = build_combined_heads(recipe, Labels(categories, heads))
    for name, head in combined.items():
        table = head.info.label_table
        assert table is not None, "the table of a combined prediction comes from its classes"
        heads[name] = HeadLabels(head.info.classes, head.info.category_ids, table)
    return Labels(categories, heads)


def build_combined_heads(recipe: Recipe, labels: Labels) -> dict[str, CombinedHead]:
    """Build the combiners of a recipe on the labels of its heads.

    Raises:
        RecipeError: If a combiner is invalid; lists the problems of all combiners.
    """
    if not recipe.combine:
        return {}
    heads = {
        name: HeadInfo(
            get_head_task(name, head).name,
            labels.heads[name].classes,
            labels.heads[name].category_ids,
            labels.heads[name].table,
        )
        for name, head in recipe.heads.items()
    }
    return build_combiners(recipe, labels.categories, heads)


def create_placeholder_categories(recipe: Recipe) -> CategoryMap:
    """Return placeholder categories for a recipe without data: the classes that its heads list."""
    class_names = [name for head in recipe.heads.values() for name in head.classes or ()]
    names = list(dict.fromkeys(class_names)) or ["first", "second"]
    return CategoryMap(tuple(Category(i + 1, name) for i, name in enumerate(names)))


def _build_head_labels(
    name: str, head: HeadRecipe, task: Task, categories: CategoryMap
) -> HeadLabels:
    names = list(categories.names)
    if head.background and not task.has_background:
        raise RecipeError(
            f"heads.{name}.background: only semantic heads have a background class, but the task "
            f"of this head is {task.name}; remove the key"
        )
    if task.has_background and head.others == BACKGROUND and not head.background:
        raise RecipeError(
            f"heads.{name}.others is background, but the head has no background class; set "
            f"heads.{name}.background: true"
        )
    class_names = head.classes
    if class_names is None:
        class_names = tuple(
            category.name
            for category in categories.categories
            if task.includes_stuff or category.is_thing
        )
    for class_name in class_names:
        if class_name not in names:
            hint = suggest_nearest(class_name, names)
            raise RecipeError(
                f"heads.{name}.classes: {class_name!r} is not a category of the dataset "
                f"({format_allowed(names)}){hint}"
            )
    if not class_names:
        raise RecipeError(
            f"heads.{name}: the dataset has no category with isthing=1 ({format_allowed(names)}); "
            f"set heads.{name}.classes"
        )
    if head.background and BACKGROUND in class_names:
        raise RecipeError(
            f"heads.{name}.background: the dataset already has a category {BACKGROUND!r}; set "
            f"heads.{name}.background: false, or remove {BACKGROUND!r} from heads.{name}.classes"
        )
    first = int(head.background)
    unknown = IGNORED
    if head.others == BACKGROUND:
        unknown = 0 if task.has_background else ABSENT
    positions = {label_name: i + first for i, label_name in enumerate(class_names)}
    classes = ((BACKGROUND,) if head.background else ()) + tuple(class_names)
    ids = ((0,) if head.background else ()) + tuple(
        categories.index_to_id(names.index(label_name)) for label_name in class_names
    )
    mapping = tuple(positions.get(category_name, unknown) for category_name in names)
    return HeadLabels(classes, ids, LabelTable(classes, mapping, 0 if head.background else VOID))
