"""`recipes`: list, show, copy and check recipes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import DataRoot, Overrides, Trust, recipes_app, run_plugins
from resnet_tasks.cli.assistance.completion import complete_keys, complete_recipes
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.cli.listings import PluginFiles, load_plugin_files
from resnet_tasks.errors import RecipeError
from resnet_tasks.option_help import format_rows

FREE_FORM = ("heads.NAME.options", "combine.NAME.options", "evaluation.extra", "augment")
"""Keys whose content registered classes define."""
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a shipped recipe, or a YAML file",
        autocompletion=complete_recipes,
    ),
]


@recipes_app.command("list")
def list_all() -> None:
    """List the shipped recipes."""
    from resnet_tasks.recipe.shipped_recipes import list_recipes

    shipped_recipes = list_recipes()
    if sys.stdout.isatty():  # otherwise one line per recipe, for grep
        rows = [(recipe.name, [recipe.summary]) for recipe in shipped_recipes]
        echo(format_rows(rows, shutil.get_terminal_size().columns))
        return
    width = max((len(recipe.name) for recipe in shipped_recipes), default=0)
    for recipe in shipped_recipes:
        echo(f"{recipe.name:{width}}  {recipe.summary}")


@recipes_app.command()
def show(
    name: RecipeName,
    overrides: Overrides = None,
    resolved: Annotated[
        bool,
        typer.Option(
            "--resolved",
            help="Print every key with its meaning, allowed values and default, and expand "
            "presets; finetune accepts the result",
        ),
    ] = False,
    trust_plugins: Trust = False,
) -> None:
    """Print a recipe as it is written, or with all defaults and explanations."""
    from resnet_tasks.recipe.shipped_recipes import find_recipe

    if resolved:
        echo(_explain_recipe(name, overrides or (), trust_plugins), nl=False)
        return
    if overrides:
        raise RecipeError(f"{overrides[0]}: KEY=VALUE needs --resolved")
    echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipes_app.command()
def copy(
    name: RecipeName,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="TARGET", help="New file, or folder for it; default: ."),
    ] = None,
) -> None:
    """Copy a shipped recipe for editing."""
    from resnet_tasks.recipe.shipped_recipes import copy_recipe

    echo(f"copied to {copy_recipe(name, target)}")


@recipes_app.command()
def validate(
    recipe: RecipeName,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Check a recipe and build its model, without loading weights or training."""
    from resnet_tasks.recipe.load import load_recipe

    loaded_recipe = load_recipe(recipe, overrides or ())
    run_plugins(loaded_recipe, trust_plugins)

    from resnet_tasks.assemble.training_setup import check_recipe

    echo(f"valid: {check_recipe(loaded_recipe, data_root)}")


@recipes_app.command()
def keys(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY",
            help="Section or key to explain, such as training; omit it for a list",
            autocompletion=complete_keys,
        ),
    ] = None,
) -> None:
    """List the keys of recipes, or explain the keys of one section.

    KEY=VALUE arguments of finetune and other commands take the same keys, such as
    training.epochs=20 or heads.cells.options.nms_iou=0.6.
    """
    from resnet_tasks.json_schema import JsonSchema
    from resnet_tasks.option_help import format_options, list_options, matches, wrap
    from resnet_tasks.recipe.key_suggestions import suggest_keys
    from resnet_tasks.recipe.load import get_recipe_schema
    from resnet_tasks.registry import format_suggestions

    options = list_options(JsonSchema(get_recipe_schema()))
    width = shutil.get_terminal_size().columns
    if key is not None:
        selected = [option for option in options if matches(option.name, key)]
        if not selected:  # a key below free-form options, whose description says who lists them
            selected = [
                option
                for option in options
                if option.name in FREE_FORM and option.name.count(".") < key.count(".")
                if matches(option.name, ".".join(key.split(".")[: option.name.count(".") + 1]))
            ]
        if not selected:
            hint = format_suggestions(suggest_keys(tuple(key.split(".")), {}))
            raise RecipeError(f"recipes have no key {key!r}{hint}")
        echo(format_options(selected, width))
        return
    # The files of data.val and data.test have the same keys as those of data.train.
    repeated = ("data.val.N.", "data.test.N.")
    overview = [option for option in options if not option.name.startswith(repeated)]
    echo(format_options(overview, width, is_short=True))
    hint = (
        "N: position in the list, from 0. NAME: a name of your choice. Allowed values and defaults "
        "of a section: resnet-tasks recipes keys KEY. Options of heads: resnet-tasks heads NAME"
    )
    echo("\n" + "\n".join(wrap(hint, width)))


@recipes_app.command()
def schema(plugin: PluginFiles = None) -> None:
    """Print the JSON schema of recipes, with which editors complete and check YAML files."""
    load_plugin_files(plugin)
    from resnet_tasks.assemble.recipe_schema import build_recipe_schema
    from resnet_tasks.files.json_encoding import encode_json

    echo(encode_json(build_recipe_schema(), indent=2))


def _explain_recipe(name: str, overrides: Sequence[str], trust_plugins: bool) -> str:
    from resnet_tasks.assemble.recipe_schema import build_recipe_schema
    from resnet_tasks.json_schema import JsonSchema
    from resnet_tasks.recipe.annotated_yaml import annotate_recipe
    from resnet_tasks.recipe.load import load_recipe

    recipe = load_recipe(name, overrides, trust_plugins=trust_plugins)
    note = ""
    if recipe.plugins and not trust_plugins:
        note = (
            "The options of its plugins are not explained; --trust-plugins runs their code and "
            "explains them."
        )
    width = shutil.get_terminal_size().columns
    return annotate_recipe(recipe, JsonSchema(build_recipe_schema()), width, note)
