"""Help pages of all commands, as a newcomer reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.cli.app import VERBS


def iter_commands(
    command: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if path:
        yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from iter_commands(child, (*path, name))


COMMANDS = dict(iter_commands(typer.main.get_command(app)))


def test_all_commands_are_collected_and_ordered() -> None:
    assert len(COMMANDS) > 30
    assert {path[0] for path in COMMANDS} == set(VERBS)


@pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
def test_every_argument_and_option_is_explained(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    for parameter in command.params:
        assert parameter.help, parameter.name
        takes_value = not getattr(parameter, "is_flag", False)
        has_choices = parameter.type_descriptor.is_choice
        assert parameter.metavar or has_choices or not takes_value, parameter.name
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "://" not in line]  # kept whole
    assert max(map(len, lines)) <= 80
    assert "range>" not in result.stdout
    assert "…" not in result.stdout
