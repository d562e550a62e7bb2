"""What each head of a recipe makes of the data set's categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnet_tasks.assemble.heads import head_class
from resnet_tasks.data.coco import Category, CategoryMap
from resnet_tasks.errors import RecipeError
from resnet_tasks.names import require_class_names, require_head_names
from resnet_tasks.recipe.schema import HeadRecipe, Recipe
from resnet_tasks.registry import did_you_mean
from resnet_tasks.structures import (
    ABSENT,
    BACKGROUND,
    CLASSIFICATION,
    IGNORED,
    SEMANTIC_SEGMENTATION,
    VOID,
    LabelTable,
    Task,
)


@dataclass(frozen=True)
class HeadLabels:
    """What a head's labels mean.

    Attributes:
        classes: Names, in label order.
        category_ids: Ids in the COCO file, in label order; 0 for a background class.
        table: From the data set's category indices to the head's labels.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    table: LabelTable


@dataclass(frozen=True)
class Labels:
    """Categories of a data set and what each head makes of them: a run's `classes.json`."""

    categories: CategoryMap
    heads: dict[str, HeadLabels]

    def to_json(self) -> dict[str, Any]:
        """As plain lists and dicts."""
        return {
            "categories": self.categories.to_json(),
            "heads": {
                name: {
                    "classes": list(each.classes),
                    "category_ids": list(each.category_ids),
                    "mapping": list(each.table.mapping),
                    "unlabelled": each.table.unlabelled,
                }
                for name, each in self.heads.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Labels:
        """The inverse of `to_json`.

        Raises:
            DataError: If a head or a class has a name that cannot be used.
        """
        require_head_names(value["heads"], "heads")
        heads = {}
        for name, each in value["heads"].items():
            classes = tuple(each["classes"])
            require_class_names(classes, f"heads.{name}.classes")
            table = LabelTable(classes, tuple(each["mapping"]), int(each["unlabelled"]))
            heads[name] = HeadLabels(classes, tuple(each["category_ids"]), table)
        return cls(CategoryMap.from_json(value["categories"]), heads)


def label_heads(recipe: Recipe, categories: CategoryMap) -> Labels:
    """What each head of the recipe makes of the data set's categories.

    Raises:
        RecipeError: If a class is unknown, or an option does not fit the head's task.
    """
    return Labels(
        categories,
        {
            name: _head_labels(name, head, head_class(name, head).task, categories)
            for name, head in recipe.heads.items()
        },
    )


def made_up_categories(recipe: Recipe) -> CategoryMap:
    """Those that the heads name, or two, where the recipe's data is absent."""
    wanted = [name for head in recipe.heads.values() for name in head.classes or ()]
    names = list(dict.fromkeys(wanted)) or ["first", "second"]
    return CategoryMap(tuple(Category(i + 1, name) for i, name in enumerate(names)))


def _head_labels(name: str, head: HeadRecipe, task: Task, categories: CategoryMap) -> HeadLabels:
    names = list(categories.names)
    semantic = task == SEMANTIC_SEGMENTATION
    if head.background and not semantic:
        raise RecipeError(
            f"heads.{name}.background: only semantic heads have a background class, this is "
            f"{task.name}"
        )
    if semantic and head.others == BACKGROUND and not head.background:
        raise RecipeError(
            f"heads.{name}.others is background, which needs heads.{name}.background: true"
        )
    wanted = head.classes
    if wanted is None:
        takes_all = semantic or task == CLASSIFICATION
        wanted = tuple(each.name for each in categories.categories if takes_all or each.is_thing)
    for each in wanted:
        if each not in names:
            hint = did_you_mean(each, names)
            raise RecipeError(
                f"heads.{name}.classes: {each!r} is no category of the data set "
                f"({', '.join(names)}){hint}"
            )
    if not wanted:
        raise RecipeError(
            f"heads.{name}: the data set has no category with isthing=1 ({', '.join(names)}); "
            f"name heads.{name}.classes"
        )
    if head.background and BACKGROUND in wanted:
        raise RecipeError(
            f"heads.{name}.background: the data set has a category of that name already; set it to "
            f"false, or leave {BACKGROUND!r} out of heads.{name}.classes"
        )
    first = int(head.background)
    unknown = IGNORED
    if head.others == BACKGROUND:
        unknown = 0 if semantic else ABSENT
    positions = {each: i + first for i, each in enumerate(wanted)}
    classes = ((BACKGROUND,) if head.background else ()) + tuple(wanted)
    ids = ((0,) if head.background else ()) + tuple(
        categories.id_of(names.index(each)) for each in wanted
    )
    mapping = tuple(positions.get(each, unknown) for each in names)
    return HeadLabels(classes, ids, LabelTable(classes, mapping, 0 if head.background else VOID))
