"""Plugins of a recipe: the only part that runs code, and only with the user's consent."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.files.atomic import write_text
from resnet_tasks.recipe.schema.recipe import Recipe

_MODULE_PREFIX = "resnet_tasks_plugin_"
"""Start of the module name of a plugin file, before the digest of its content."""
_COPY_NUMBER = re.compile(r"^\d+_")
"""Start of the name of a copied plugin file: its position among the plugins."""


def load_plugins(recipe: Recipe, base_dir: Path | None = None, *, trust: bool) -> None:
    """Run the recipe's plugins, which register heads and other parts.

    Args:
        recipe: Recipe whose `plugins` are run in order, each at most once per process.
        base_dir: Folder that relative paths start from; default: the working directory.
            `load_recipe` makes the paths absolute.
        trust: Whether the user agreed to run them.

    Raises:
        RecipeError: If there are plugins but `trust` is False, or if a plugin is missing or fails.
    """
    if recipe.plugins and not trust:
        raise RecipeError(
            f"recipe {recipe.name} needs to run this code on your machine: "
            f"{', '.join(recipe.plugins)}; read the code, and if you trust it, pass --trust-plugins"
        )
    run_plugins(recipe.plugins, base_dir)


def run_plugins(plugins: Sequence[str], base_dir: Path | None = None) -> None:
    """Run plugins in order, each at most once per process; the user must have agreed to it.

    Args:
        plugins: Python files, relative to `base_dir`, or names of modules.
        base_dir: Folder that relative paths start from; default: the working directory.

    Raises:
        RecipeError: If a plugin is missing or fails.
    """
    for plugin in plugins:
        try:
            if plugin.endswith(".py"):
                _run_file((base_dir or Path()) / plugin)
            else:
                importlib.import_module(plugin)
        except ResnetTasksError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise RecipeError(
                f"plugin {plugin} failed at {last.filename}:{last.lineno} with "
                f"{type(error).__name__}: {error}"
            ) from error


def resolve_plugins(plugins: tuple[str, ...], base_dir: Path) -> tuple[str, ...]:
    """Make the paths among the plugins absolute, so that they are found from any folder."""
    return tuple(
        os.path.realpath(base_dir / plugin) if plugin.endswith(".py") else plugin
        for plugin in plugins
    )


def copy_plugins(plugins: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Copy plugin files into the folder of a run or an export, which must be self-contained.

    Args:
        plugins: Absolute paths of Python files, or names of modules.
        folder: Folder that receives the files, below `plugins`.

    Returns:
        Names of the plugins, with copied files relative to the folder.
    """
    copied_plugins = []
    for number, plugin in enumerate(plugins):
        if not plugin.endswith(".py"):
            copied_plugins.append(plugin)
            continue
        name = f"plugins/{number}_{_COPY_NUMBER.sub('', Path(plugin).name)}"
        write_text(folder / name, Path(plugin).read_text(encoding="utf-8"))
        copied_plugins.append(name)
    return tuple(copied_plugins)


def _run_file(path: Path) -> None:
    if not path.is_file():
        raise RecipeError(f"plugin {path} does not exist; correct `plugins` in the recipe")
    content = path.read_bytes()
    # Named by content and not by path, so that the copy in a run folder counts as the same plugin.
    name = f"{_MODULE_PREFIX}{hashlib.sha256(content).hexdigest()[:12]}"
    if name in sys.modules or _is_imported(path.name, content):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look up the module of a class here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _is_imported(name: str, content: bytes) -> bool:
    """Return whether the user already imported a file of this name and content as a module.

    Args:
        name: File name; the number that run folders put before it is ignored.
        content: Content of the file.
    """
    names = {name, _COPY_NUMBER.sub("", name)}
    # Modules of plugins are skipped: their name contains the digest of the content that was run,
    # while their file may have changed since.
    files = [
        getattr(module, "__file__", None)
        for module_name, module in list(sys.modules.items())
        if not module_name.startswith(_MODULE_PREFIX)
    ]
    paths = [Path(file) for file in files if file and Path(file).name in names]
    return any(path.is_file() and path.read_bytes() == content for path in paths)
