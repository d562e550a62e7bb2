"""`recipes`: list, show, copy and check recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import DataRoot, Overrides, Trust, recipes_app, run_plugins


@recipes_app.command("list")
def list_all() -> None:
    """List the shipped recipes."""
    from resnet_tasks.recipe.shipped_recipes import list_recipes

    shipped_recipes = list_recipes()
    width = max((len(recipe.name) for recipe in shipped_recipes), default=0)
    for recipe in shipped_recipes:
        typer.echo(f"{recipe.name:{width}}  {recipe.summary}")


@recipes_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Include all defaults and expand presets")
    ] = False,
) -> None:
    """Print a recipe."""
    from resnet_tasks.recipe.load import load_recipe, recipe_to_yaml
    from resnet_tasks.recipe.shipped_recipes import find_recipe

    if resolved:
        typer.echo(recipe_to_yaml(load_recipe(name)), nl=False)
        return
    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipes_app.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    target: Annotated[
        Path | None,
        typer.Argument(help="New file or folder; default: the current folder"),
    ] = None,
) -> None:
    """Copy a shipped recipe for editing."""
    from resnet_tasks.recipe.shipped_recipes import copy_recipe

    typer.echo(f"copied to {copy_recipe(name, target)}")


@recipes_app.command()
def validate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE")],
    overrides: Overrides = None,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Check a recipe and build its model, without loading weights or training."""
    from resnet_tasks.recipe.load import load_recipe

    loaded_recipe = load_recipe(recipe, overrides or ())
    run_plugins(loaded_recipe, trust_plugins)

    from resnet_tasks.assemble.training_setup import check_recipe

    typer.echo(f"valid: {check_recipe(loaded_recipe, data_root)}")


@recipes_app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from resnet_tasks.recipe.load import get_recipe_schema

    typer.echo(json.dumps(get_recipe_schema(), indent=2))
