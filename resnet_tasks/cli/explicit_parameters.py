"""Parameters that the command line sets explicitly."""

from __future__ import annotations

import typer


def find_explicit_parameters(ctx: typer.Context) -> set[str]:
    """Return the names of the parameters that the command line sets."""
    return {
        name
        for name in ctx.params
        if (source := ctx.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }


def format_options(names: list[str]) -> str:
    """Format parameter names as the options that set them: `--data-root, --split`."""
    options = ("RUN" if name == "run" else f"--{name.replace('_', '-')}" for name in names)
    return ", ".join(options)
