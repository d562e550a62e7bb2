from __future__ import annotations

import pytest

from resnet_tasks.cli.assistance.command_line import join_assignments


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        ([], []),
        (["finetune", "q", "a.b", "=", "5", "c"], ["finetune", "q", "a.b=5", "c"]),
        (["--out", "=", "x", "y"], ["--out=x", "y"]),
        (["a", "=", "b", "=", "c"], ["a=b=c"]),
        (["a=b", "c"], ["a=b", "c"]),
        (["a", "="], ["a="]),
        (["=", "a"], ["=a"]),
    ],
)
def test_words_of_bash_are_joined(words: list[str], joined: list[str]) -> None:
    assert join_assignments(words) == joined
