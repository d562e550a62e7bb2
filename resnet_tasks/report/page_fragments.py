"""A part of a page, or the sentence why it could not be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resnet_tasks.errors import ResnetTasksError

BUILD_ERRORS = (LookupError, TypeError, ValueError, AttributeError, OSError, ResnetTasksError)
"""What a damaged or foreign file can cause while a part of the page is made."""


@dataclass(frozen=True)
class PageFragment:
    """Any part of the page, or the sentence why it could not be made."""

    value: Any = None
    problem: str = ""


def build_fragment(make: Callable[[], Any]) -> PageFragment:
    """A part of the page; what is wrong with its files becomes a sentence in its place."""
    try:
        return PageFragment(make())
    except BUILD_ERRORS as error:
        text = (
            str(error)
            if isinstance(error, ResnetTasksError)
            else f"{type(error).__name__}: {error}"
        )
        return PageFragment(problem=text)
