"""Typed registry of named objects, whose errors suggest the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar

from resnet_tasks.errors import ResnetTasksError, limit_name

T = TypeVar("T")
Item = TypeVar("Item")


def find_nearest(name: str, choices: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """Return the choice most similar to `name`, or None if none is similar.

    Args:
        name: Name as the user wrote it.
        choices: Known names.
        cutoff: Smallest similarity, 0..1, as `difflib` computes it.
    """
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def suggest_nearest(name: str, choices: Iterable[str]) -> str:
    """Return the end of an error message, `; did you mean 'unet'?`, or an empty string."""
    close = find_nearest(name, choices)
    return format_suggestions([close] if close else [])


def format_suggestions(names: Sequence[str]) -> str:
    """Return the end of an error message, `; did you mean 'unet' or 'fpn'?`, or an empty string."""
    if not names:
        return ""
    *first_names, last_name = (repr(limit_name(name)) for name in names)
    choices = f"{', '.join(first_names)} or {last_name}" if first_names else last_name
    return f"; did you mean {choices}?"


class Registry(Generic[T]):
    """Named objects of one kind, extensible through Python entry points.

    Args:
        kind: Kind of the objects in the singular, for error messages (`"head"`).
        group: Entry point group that is searched for unknown names (`"resnet_tasks.heads"`).
            Loading an entry point must register the name.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self._kind = kind
        self._group = group
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Item], Item]:
        """Return a decorator that registers an object as `name`.

        Raises:
            ResnetTasksError: If `name` already belongs to another object.
        """

        def register_object(item: Item) -> Item:
            present = self._items.get(name)
            if present is not None and _format_origin(present) != _format_origin(item):
                raise ResnetTasksError(
                    f"{self._kind} {name!r} is registered twice: by {_format_origin(present)} and "
                    f"{_format_origin(item)}; rename one of them"
                )
            self._items[name] = item  # type: ignore[assignment]  # the decorator keeps its type
            return item

        return register_object

    def get(self, name: str) -> T:
        """Return the object registered as `name`.

        Raises:
            ResnetTasksError: If there is none; the message lists all names and the nearest match.
        """
        if name not in self._items:
            self._load_entry_points()
        if name not in self._items:
            choices = self.list_names()
            hint = suggest_nearest(name, choices)
            raise ResnetTasksError(
                f"unknown {self._kind} {name!r}; known: {', '.join(choices) or 'none'}{hint}"
            )
        return self._items[name]

    def list_names(self) -> list[str]:
        """List all registered names, sorted, including those of installed entry points."""
        self._load_entry_points()
        return sorted(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_names())

    def __contains__(self, name: str) -> bool:
        return name in self.list_names()

    def _load_entry_points(self) -> None:
        if self._group is None:
            return
        # Imported here because it takes longer than importing all of this module.
        for point in import_module("importlib.metadata").entry_points(group=self._group):
            if point.name not in self._items:
                point.load()


def _format_origin(item: object) -> str:
    return f"{getattr(item, '__module__', '?')}.{getattr(item, '__qualname__', repr(item))}"


EXTRA_EVALUATORS: Registry[Any] = Registry("evaluator", group="resnet_tasks.evaluators")
"""Registry of additional evaluators by their name under `evaluation.extra` of a recipe.

See `evaluation.protocols.registry.ExtraEvaluator`.
"""
