"""Console and styled text that show foreign text as it is, without markup and control characters.

Names of classes and files, attributes and messages come from files that anybody may have written.
Rich would read `[red]` in them as a style, `[/b]` as an error and `:cat:` as an emoji, and send
escape sequences to the terminal. All output with rich therefore uses these two classes.
"""

from __future__ import annotations

from typing import Any

import rich.console
import rich.text
from rich.protocol import is_renderable

from resnet_tasks.foreign_text import escape_controls


class Text(rich.text.Text):
    """Styled text whose control characters are escaped."""

    def __init__(self, text: str = "", *args: Any, **kwargs: Any) -> None:
        super().__init__(escape_controls(text), *args, **kwargs)

    def append(self, text: rich.text.Text | str, style: Any = None) -> Text:
        """Append a text, whose control characters are escaped, and return this one."""
        super().append(escape_controls(text) if isinstance(text, str) else text, style)
        return self


class Console(rich.console.Console):
    """Console that neither interprets markup or emoji codes nor prints control characters."""

    def print(self, *objects: Any, **kwargs: Any) -> None:
        """Print strings, paths, tables and other renderable objects."""
        # rich does not pass the text of other objects, such as paths, to `render_str`.
        super().print(*(part if is_renderable(part) else str(part) for part in objects), **kwargs)

    def render_str(self, text: str, **kwargs: Any) -> rich.text.Text:
        """Turn a string, such as a cell of a table, into text without interpreting it."""
        kwargs |= {"markup": False, "emoji": False}
        return super().render_str(escape_controls(text), **kwargs)
