"""Plugins of an exported model, whose code runs only if it is needed and the user agrees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_tasks.errors import ResnetTasksError, RunError
from resnet_tasks.exported.manifest import Manifest
from resnet_tasks.inference.combiners import COMBINERS
from resnet_tasks.recipe.plugins import run_plugins
from resnet_tasks.registry import Registry
from resnet_tasks.structures.tasks import TASKS

PLUGIN = re.compile(r"plugins/[\w+-][\w.+-]*\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""Allowed plugins: a file in the folder `plugins` of the export, or the name of a module."""


def list_missing_parts(manifest: Manifest) -> list[str]:
    """Describe the tasks and combiners that neither an import nor an entry point registers."""
    tasks = [
        f"the task {head.task} of head {name}"
        for name, head in manifest.heads.items()
        if not _is_registered(TASKS, head.task)
    ]
    combiners = [
        f"the combiner {combiner.type} of {name}"
        for name, combiner in manifest.combine.items()
        if not _is_registered(COMBINERS, combiner.type)
    ]
    return [*tasks, *combiners]


def load_plugins(manifest: Manifest, folder: Path, *, trust: bool) -> None:
    """Run the plugins of an export if a task or combiner is not registered otherwise.

    Args:
        manifest: Contents of `export.json`.
        folder: Folder of the export.
        trust: Whether the user agreed to run them.

    Raises:
        RecipeError: If a plugin is missing or fails.
        RunError: If a task or combiner is not registered, and no plugin may or does register it.
    """
    missing = list_missing_parts(manifest)
    if missing and manifest.plugins and trust:
        _require_plugin_names(manifest.plugins, folder)
        run_plugins(manifest.plugins, folder)
        missing = list_missing_parts(manifest)
    if missing:
        remedy = "import the module that registers it, or install its package"
        if manifest.plugins and not trust:
            remedy += (
                f"; or read the code of the export ({', '.join(manifest.plugins)}), and if you "
                "trust it, pass --trust-plugins (in Python: trust_plugins=True)"
            )
        raise RunError(f"{folder}: {missing[0]} is not registered; {remedy}")


def _is_registered(registry: Registry[Any], name: str) -> bool:
    try:
        registry.get(name)
    except ResnetTasksError:
        return False
    return True


def _require_plugin_names(plugins: Sequence[str], folder: Path) -> None:
    for plugin in plugins:
        if not PLUGIN.fullmatch(plugin):
            raise RunError(
                f"{folder} names the plugin {plugin!r}, which is neither a file in its folder "
                "plugins nor a module; export the run again"
            )
