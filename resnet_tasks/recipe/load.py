"""Conversion of a recipe's text and overrides to a validated `Recipe`, and back to text.

Reading never runs code. Options of heads are not validated here; `assemble` validates them with the
options class of the head.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from resnet_tasks.errors import NotRecipeError, RecipeError, limit_name
from resnet_tasks.recipe.dataset_hints import describe_file, may_be_annotations
from resnet_tasks.recipe.format_version import add_format_version, require_known_format
from resnet_tasks.recipe.overrides import apply_overrides
from resnet_tasks.recipe.plugins import load_plugins, resolve_plugins
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.data import DataRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.schema_keys import get_json_schema
from resnet_tasks.recipe.shipped_recipes import find_recipe
from resnet_tasks.recipe.validation_errors import MAX_PROBLEMS, find_problems, quote_value
from resnet_tasks.recipe.yaml_text import (
    KeyPath,
    YamlDocument,
    dump_yaml,
    parse_yaml,
    read_yaml_text,
)


def load_recipe(
    ref: str | Path, overrides: Sequence[str] = (), *, trust_plugins: bool = False
) -> Recipe:
    """Read and validate a recipe.

    Args:
        ref: Path of a YAML file, or name of a shipped recipe (`quickstart`,
            `medical/bccd_faster_rcnn_resnet18`).
        overrides: `key=value` texts, applied before the validation.
        trust_plugins: Whether to run the recipe's `plugins`, as `load_plugins` does. By default no
            code is run.

    Returns:
        Recipe with absolute paths of plugins, named after its file unless it has a name.

    Raises:
        RecipeError: If the text or an override is invalid. The message lists all problems, one per
            line: file and line (or the override), key path, given value, allowed values and nearest
            match.
    """
    path = _find_recipe(ref)
    if (problem := describe_file(path)) is not None:
        raise problem
    try:
        document = read_recipe_document(path)
    except RecipeError as error:
        if may_be_annotations(path):
            raise NotRecipeError(str(error), path) from None
        raise
    value = document.value
    origins, problems = apply_overrides(value, overrides)
    value.setdefault("name", path.stem)
    recipe = _validate(value, problems, path, document.lines, origins)
    recipe = replace_settings(recipe, {"plugins": resolve_plugins(recipe.plugins, path.parent)})
    if trust_plugins:
        load_plugins(recipe, trust=True)
    return recipe


def _find_recipe(ref: str | Path) -> Path:
    """Return the file of a recipe; see `find_recipe`.

    Raises:
        RecipeError: If there is none, or `ref` is a pipe or another special file: a recipe is read
            more than once.
    """
    try:
        return find_recipe(ref)
    except RecipeError:
        if Path(ref).exists() and not Path(ref).is_dir():
            raise RecipeError(
                f"recipe {ref} cannot be read: it is a pipe or another special file, and a recipe "
                "is read only from a regular file; save it as a file"
            ) from None
        raise


def read_recipe_document(path: Path) -> YamlDocument:
    """Read the YAML of a recipe without validating its keys and values.

    Raises:
        RecipeError: If the file cannot be read, is truncated, was written by a newer version, or is
            not a YAML file with keys.
    """
    document = parse_yaml(_read_text(path), str(path))
    if not isinstance(document.value, dict):
        raise RecipeError(
            f"{path}: a recipe consists of the keys {_list_top_keys()}; got "
            f"{quote_value(document.value)}"
        )
    return document


def load_data_settings(overrides: Sequence[str]) -> DataRecipe:
    """Load the settings between a stored image and a tensor, for commands without a recipe.

    Args:
        overrides: `data.channels=…` and `data.intensity…=…`, written as in a recipe.

    Raises:
        RecipeError: If an override is invalid; the message lists all problems, one per line.
    """
    value: dict[str, Any] = {
        "data": {"root": ".", "train": [{"annotations": "."}], "val": [{"annotations": "."}]},
        "heads": {"none": {"type": "none"}},
    }
    origins, problems = apply_overrides(value, overrides)
    allowed = ("data.channels", "data.intensity")
    problems += [
        f"override {limit_name(text)!r}: only {' and '.join(allowed)} can be set here"
        for text in origins.values()
        if not text.startswith(allowed)
    ]
    return _validate(value, problems, Path(), {}, origins).data


def _validate(
    value: dict[str, Any],
    problems: list[str],
    path: Path,
    lines: dict[KeyPath, int],
    origins: dict[KeyPath, str],
) -> Recipe:
    """Validate a parsed recipe; the error lists `problems` first."""
    try:
        # JSON mode is strict but accepts lists as tuples: '3' is not a number, 1 not a boolean.
        recipe = Recipe.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problems = problems + [
            f"{_describe_origin(key_path, path, lines, origins)}: {sentence}"
            for key_path, sentence in find_problems(error, value).items()
        ]
        if error.error_count() > MAX_PROBLEMS:
            problems.append(
                f"{path}: of {error.error_count():,} problems, the first {MAX_PROBLEMS} are listed"
            )
    if problems:
        raise RecipeError("\n".join(dict.fromkeys(problems)))
    return recipe


def recipe_to_yaml(recipe: Recipe, plugins: Sequence[str] | None = None) -> str:
    """Format a recipe with every default written out; `load_recipe` reads back an equal recipe.

    Args:
        recipe: Recipe to format.
        plugins: Plugins to write instead of those of the recipe, such as paths relative to the
            file; None: those of the recipe.
    """
    values = recipe.model_dump(mode="json")
    text = dump_yaml(values if plugins is None else {**values, "plugins": list(plugins)})
    return add_format_version(text)


def get_recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, for editors that complete and validate YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **get_json_schema().root}


def _read_text(path: Path) -> str:
    try:
        text = read_yaml_text(path)
    except UnicodeDecodeError:
        raise RecipeError(
            f"{path} is not a UTF-8 text file; a recipe is a YAML file in UTF-8"
        ) from None
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error.strerror or error}") from None
    require_known_format(text, path)
    return text


def _list_top_keys() -> str:
    return ", ".join(Recipe.model_fields)


def _describe_origin(
    key_path: KeyPath, path: Path, lines: dict[KeyPath, int], origins: dict[KeyPath, str]
) -> str:
    """Return the override that set a value, else the file with the nearest known line."""
    ancestors = [key_path[:end] for end in range(len(key_path), -1, -1)]
    override = next((origins[ancestor] for ancestor in ancestors if ancestor in origins), None)
    if override is not None:
        return f"override {limit_name(override)!r}"
    line = next((lines[ancestor] for ancestor in ancestors if ancestor in lines), None)
    return str(path) if line is None else f"{path}:{line}"
