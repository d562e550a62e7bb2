"""Category ids of COCO files to indices and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resnet_tasks.data.coco.problems import format_list, format_value
from resnet_tasks.errors import DataError
from resnet_tasks.files.safe_names import require_class_names


@dataclass(frozen=True)
class Category:
    """One class of a data set.

    Attributes:
        id: As in the file; any whole number.
        name: Unique within a file.
        is_thing: Whether it comes in countable objects (COCO panoptic's `isthing`).
        supercategory: As in the file.
    """

    id: int
    name: str
    is_thing: bool = True
    supercategory: str = ""


@dataclass(frozen=True)
class CategoryMap:
    """Category ids to indices `0..K-1` and back.

    Attributes:
        categories: Sorted by id, whatever order they are given in.

    Raises:
        DataError: If an id or a name appears twice.
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
                    f"the category {key}(s) {', '.join(repeated)} appear more than once; "
                    f"give each category its own {key}"
                )

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in index order."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Ids in index order, rising."""
        return tuple(category.id for category in self.categories)

    @cached_property
    def things(self) -> tuple[int, ...]:
        """Indices of the categories that come in countable objects."""
        return tuple(i for i, category in enumerate(self.categories) if category.is_thing)

    @cached_property
    def stuff(self) -> tuple[int, ...]:
        """Indices of all other categories."""
        return tuple(i for i, category in enumerate(self.categories) if not category.is_thing)

    @cached_property
    def index_table(self) -> Mapping[int, int]:
        """Id -> index."""
        return {category.id: i for i, category in enumerate(self.categories)}

    def id_to_index(self, category_id: int) -> int:
        """Index of the category with this id.

        Raises:
            DataError: If there is none; the message lists the known ids.
        """
        index = self.index_table.get(category_id)
        if index is None:
            raise DataError(
                f"category id {category_id!r} is unknown; known: {format_list(self.ids, 100)}"
            )
        return index

    def index_to_id(self, index: int) -> int:
        """Id of the category at `index` (0..K-1).

        Raises:
            DataError: If there is no such index.
        """
        if not 0 <= index < len(self):
            raise DataError(f"category index {index} is not within 0..{len(self) - 1}")
        return self.categories[index].id

    @classmethod
    def merge(cls, maps: Sequence[CategoryMap]) -> CategoryMap:
        """The common map of several files; a category may be absent from some of them.

        Raises:
            DataError: If the same id stands for different names, or the same name for different
                ids or kinds.
        """
        by_id: dict[int, Category] = {}
        by_name: dict[str, Category] = {}
        for category in (category for category_map in maps for category in category_map.categories):
            for present in (by_id.get(category.id), by_name.get(category.name)):
                if present is not None and _get_identity(present) != _get_identity(category):
                    raise DataError(
                        "the files do not agree on their categories: one has "
                        f"{_describe_category(present)}, another {_describe_category(category)}; "
                        "give the same category the same id, name and `isthing` in all of them"
                    )
            by_id.setdefault(category.id, category)
            by_name.setdefault(category.name, category)
        return cls(tuple(by_id.values()))

    def to_json(self) -> list[dict[str, Any]]:
        """The `categories` of a COCO file."""
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
        """The map of the `categories` of a COCO file.

        Raises:
            DataError: If that is not a list of objects with a whole-number `id` and a `name`.
        """
        if not isinstance(raw, list) or not raw:
            raise DataError(
                f"`categories` must be a list of at least one object, got {format_value(raw)}"
            )
        return cls(
            tuple(
                _parse_category(position, raw_category) for position, raw_category in enumerate(raw)
            )
        )


def _parse_category(position: int, raw: object) -> Category:
    if not isinstance(raw, dict):
        raise DataError(f"`categories[{position}]` must be an object, got {format_value(raw)}")
    category_id, name = raw.get("id"), raw.get("name")
    if type(category_id) is not int or not isinstance(name, str) or not name:
        raise DataError(
            f"`categories[{position}]` needs a whole-number `id` and a `name`, got id "
            f"{category_id!r} and name {name!r}"
        )
    require_class_names([name], f"`categories[{position}]`")
    is_thing = raw.get("isthing", 1)
    if is_thing not in (0, 1):
        raise DataError(
            f"category {name!r}: `isthing` must be 0 or 1, got {format_value(is_thing)}"
        )
    return Category(category_id, name, bool(is_thing), str(raw.get("supercategory") or ""))


def _get_identity(category: Category) -> tuple[int, str, bool]:
    return (category.id, category.name, category.is_thing)


def _describe_category(category: Category) -> str:
    return f"{category.id}: {category.name!r} (isthing {int(category.is_thing)})"
