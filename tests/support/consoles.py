"""Consoles that show nobody what they are told, and what that was."""

from __future__ import annotations

import io

from rich.console import Console


def quiet(width: int = 400) -> Console:
    """A new console that keeps what it is told; so wide that no sentence is broken."""
    return Console(file=io.StringIO(), width=width)


def heard(console: Console) -> str:
    """All that a quiet console was told."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
