"""Mapping between the category ids of COCO files and category indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resnet_tasks.data.coco.field_values import format_value, to_whole_id
from resnet_tasks.errors import DataError, format_allowed, format_list
from resnet_tasks.files.safe_names import require_class_names
from resnet_tasks.number_formats import Count

MAX_CATEGORIES = 250_000
"""Maximum number of categories of a dataset.

The largest public dataset, Google Landmarks v2, has 203,094; ImageNet-21k has 21,841.
"""


def require_category_count(number: int) -> None:
    """Reject a dataset with more categories than a head can have.

    Args:
        number: Number of categories.

    Raises:
        DataError: If it exceeds `MAX_CATEGORIES`.
    """
    if number > MAX_CATEGORIES:
        raise DataError(
            f"the dataset has {number:,} categories, more than the limit of {MAX_CATEGORIES:,}; "
            "check that `categories` lists classes, not objects or images"
        )


@dataclass(frozen=True)
class Category:
    """Category of a dataset.

    Attributes:
        id: Id in the file, any integer.
        name: Name, unique within a file.
        is_thing: Whether the category has countable objects (COCO panoptic's `isthing`).
        supercategory: Supercategory in the file, or an empty string.
    """

    id: int
    name: str
    is_thing: bool = True
    supercategory: str = ""


@dataclass(frozen=True)
class CategoryMap:
    """Bidirectional mapping between category ids and indices `0..K-1`.

    Attributes:
        categories: Categories sorted by id. They may be passed in any order.

    Raises:
        DataError: If an id or a name appears more than once.
    """

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.categories, key=lambda category: category.id))
        object.__setattr__(self, "categories", ordered)
        for key, counts in (
            ("id", Counter(repr(c.id) for c in ordered)),
            ("name", Counter(repr(c.name) for c in ordered)),
        ):
            repeated = [value for value, count in counts.items() if count > 1]
            if repeated:
                raise DataError(
                    f"{Count(len(repeated)):category {key} is} used more than once: "
                    f"{format_list(repeated)}; "
                    f"give each category its own {key}"
                )

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Category names in index order."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Category ids in index order, ascending."""
        return tuple(category.id for category in self.categories)

    @cached_property
    def things(self) -> tuple[int, ...]:
        """Indices of the categories with countable objects."""
        return tuple(i for i, category in enumerate(self.categories) if category.is_thing)

    @cached_property
    def stuff(self) -> tuple[int, ...]:
        """Indices of the categories without countable objects."""
        return tuple(i for i, category in enumerate(self.categories) if not category.is_thing)

    @cached_property
    def index_table(self) -> Mapping[int, int]:
        """Mapping from category id to index."""
        return {category.id: i for i, category in enumerate(self.categories)}

    def id_to_index(self, category_id: int) -> int:
        """Return the index of the category with this id.

        Raises:
            DataError: If the id is unknown. The message lists the known ids.
        """
        index = self.index_table.get(category_id)
        if index is None:
            raise DataError(
                f"category id {category_id!r} is unknown; known: {format_allowed(self.ids)}"
            )
        return index

    def index_to_id(self, index: int) -> int:
        """Return the id of the category at `index` (0..K-1).

        Raises:
            DataError: If the index is out of range.
        """
        if not 0 <= index < len(self):
            raise DataError(f"category index {index} is not within 0..{len(self) - 1}")
        return self.categories[index].id

    @classmethod
    def merge(cls, maps: Sequence[CategoryMap]) -> CategoryMap:
        """Return the common map of several files, each of which may lack some categories.

        Raises:
            DataError: If the same id has different names, or the same name has different ids or
                kinds (`isthing`).
        """
        by_id: dict[int, Category] = {}
        by_name: dict[str, Category] = {}
        for category in (category for category_map in maps for category in category_map.categories):
            for present in (by_id.get(category.id), by_name.get(category.name)):
                if present is not None and _get_identity(present) != _get_identity(category):
                    raise DataError(
                        "the files do not agree on their categories: one has "
                        f"{_describe_category(present)}, another {_describe_category(category)}; "
                        "give the same category the same id, name and `isthing` in every file"
                    )
            by_id.setdefault(category.id, category)
            by_name.setdefault(category.name, category)
        return cls(tuple(by_id.values()))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the `categories` list of a COCO file."""
        return [
            {
                "id": category.id,
                "name": category.name,
                "isthing": int(category.is_thing),
                "supercategory": category.supercategory,
            }
            for category in self.categories
        ]

    @classmethod
    def from_json(cls, raw: object) -> CategoryMap:
        """Build the map from the `categories` list of a COCO file.

        Raises:
            DataError: If `raw` is not a non-empty list of objects with an integer `id` and a
                `name`.
        """
        if not isinstance(raw, list) or not raw:
            raise DataError(
                f"`categories` must be a list of at least one object, got {format_value(raw)}"
            )
        require_category_count(len(raw))
        return cls(
            tuple(
                _parse_category(position, raw_category) for position, raw_category in enumerate(raw)
            )
        )


def _parse_category(position: int, raw: object) -> Category:
    if not isinstance(raw, dict):
        raise DataError(f"`categories[{position}]` must be an object, got {format_value(raw)}")
    category_id, name = to_whole_id(raw.get("id")), raw.get("name")
    if type(category_id) is not int or not isinstance(name, str) or not name:
        raise DataError(
            f"`categories[{position}]` needs a whole-number `id` and a `name`, got id "
            f"{format_value(category_id)} and name {format_value(name)}"
        )
    require_class_names([name], f"`categories[{position}]`")
    is_thing = raw.get("isthing", 1)
    if is_thing not in (0, 1):
        raise DataError(
            f"category {format_value(name)}: `isthing` must be 0 or 1, got {format_value(is_thing)}"
        )
    return Category(category_id, name, bool(is_thing), str(raw.get("supercategory") or ""))


def _get_identity(category: Category) -> tuple[int, str, bool]:
    return (category.id, category.name, category.is_thing)


def _describe_category(category: Category) -> str:
    return f"{category.id}: {format_value(category.name)} (isthing {int(category.is_thing)})"
