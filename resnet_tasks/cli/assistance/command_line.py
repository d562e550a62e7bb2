"""Words of the command line."""

from __future__ import annotations

from collections.abc import Sequence

WORDS = "resnet_tasks.words"
"""Key under which the contexts of all commands hold the words of the command line."""


def join_assignments(words: Sequence[str]) -> list[str]:
    """Join `KEY`, `=`, `VALUE` to one word, which bash passes as three words."""
    joined: list[str] = []
    for word in words:
        if joined and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    return joined
