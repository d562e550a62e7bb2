"""Parts of a page that are replaced by an explanation if they cannot be built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resnet_tasks.errors import ResnetTasksError

BUILD_ERRORS = (LookupError, TypeError, ValueError, AttributeError, OSError, ResnetTasksError)
"""Errors that damaged files, or files of other versions, can cause while a part is built."""


@dataclass(frozen=True)
class PageFragment:
    """Part of a page, or the reason why it could not be built."""

    value: Any = None
    problem: str = ""


def build_fragment(make: Callable[[], Any]) -> PageFragment:
    """Build a part of the page; an error in its files becomes the `problem` of the fragment."""
    try:
        return PageFragment(make())
    except BUILD_ERRORS as error:
        text = (
            str(error)
            if isinstance(error, ResnetTasksError)
            else f"{type(error).__name__}: {error}"
        )
        return PageFragment(problem=text)
