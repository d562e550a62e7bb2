"""Command groups with complete help and suggestions for unknown commands."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from resnet_tasks.cli.assistance.suggestions import describe_unknown_command
from resnet_tasks.errors import ResnetTasksError


class CommandGroup(TyperGroup):
    """Command group whose help prints complete sentences; typer cuts them to one line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands into the help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, verb.get_short_help_str(limit=500)) for name, verb in commands if verb]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name.

        Raises:
            ResnetTasksError: If there is no such command; the message suggests one.
        """
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise ResnetTasksError(describe_unknown_command(self, ctx, args))
        return super().resolve_command(ctx, args)
