"""Tasks of plugins, whose code an exported model carries and runs only with the user's consent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from resnet_tasks.errors import HeadError, RunError
from resnet_tasks.exported.manifest import ExportedHead, Manifest
from resnet_tasks.recipe.plugins import run_plugins
from resnet_tasks.structures.tasks import get_task

PLUGIN = re.compile(r"plugins/[\w+-][\w.+-]*\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""Allowed plugins: a file in the folder `plugins` of the export, or the name of a module."""


def list_missing_heads(manifest: Manifest) -> dict[str, ExportedHead]:
    """Return the heads whose task is not registered: neither by an import nor an entry point."""
    return {name: head for name, head in manifest.heads.items() if not _is_registered(head.task)}


def load_tasks(manifest: Manifest, folder: Path, *, trust: bool) -> None:
    """Run the plugins of an export if a head's task is not registered otherwise.

    Args:
        manifest: Contents of `export.json`.
        folder: Folder of the export.
        trust: Whether the user agreed to run them.

    Raises:
        RecipeError: If a plugin is missing or fails.
        RunError: If a task is not registered, and no plugin may or does register it.
    """
    missing = list_missing_heads(manifest)
    if missing and manifest.plugins and trust:
        _require_plugin_names(manifest.plugins, folder)
        run_plugins(manifest.plugins, folder)
        missing = list_missing_heads(manifest)
    for name, head in missing.items():
        remedy = "import the module that registers it, or install its package"
        if manifest.plugins and not trust:
            remedy += (
                f"; or read the code of the export ({', '.join(manifest.plugins)}), and if you "
                "trust it, pass --trust-plugins (in Python: trust_plugins=True)"
            )
        raise RunError(f"{folder}: the task {head.task} of head {name} is not registered; {remedy}")


def _is_registered(task: str) -> bool:
    try:
        get_task(task)
    except HeadError:
        return False
    return True


def _require_plugin_names(plugins: Sequence[str], folder: Path) -> None:
    for plugin in plugins:
        if not PLUGIN.fullmatch(plugin):
            raise RunError(
                f"{folder} names the plugin {plugin!r}, which is neither a file in its folder "
                "plugins nor a module; export the run again"
            )
