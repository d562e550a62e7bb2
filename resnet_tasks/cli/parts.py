"""`heads` and `backbones`: the parts that a recipe can name."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from resnet_tasks.cli.app import app
from resnet_tasks.errors import ResnetTasksError


@app.command()
def heads() -> None:
    """List the heads that a recipe can name, with their options and defaults."""
    from resnet_tasks.assemble import BUILT_IN_HEADS
    from resnet_tasks.heads.base import HEADS

    assert BUILT_IN_HEADS  # importing them registered them
    for name in HEADS:
        head = HEADS.get(name)
        typer.echo(f"{name}: {head.task.name}, reads {', '.join(head.in_levels)}")
        for option, field in head.Options.model_fields.items():
            default = field.get_default(call_default_factory=True)
            shown = list(default) if isinstance(default, tuple) else default
            typer.echo(f"    {option}: {json.dumps(shown, default=str)}")


@app.command()
def backbones(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, as in 'resnet*d'")] = "*",
) -> None:
    """List the ResNet variants that a recipe can name."""
    from resnet_tasks.backbone.resnet import backbone_names

    names = backbone_names(pattern)
    if not names:
        raise ResnetTasksError(
            f"no backbone matches {pattern!r}; `resnet-tasks backbones` lists all"
        )
    typer.echo("\n".join(names))
