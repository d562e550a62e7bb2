"""Shell completion of recipes, keys, formats, datasets, run folders, backbones and heads.

A shell runs the program for every Tab, so that nothing here imports torch, and heavy modules are
imported where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, get_args

import typer

from resnet_tasks.cli.assistance.command_line import WORDS
from resnet_tasks.foreign_names import HEAD

Parameters = ParamSpec("Parameters")
Completion = str | tuple[str, str]
"""Text that replaces the incomplete word, or the text and its description."""

RUNS = Path("runs")
"""Folder in which `finetune` creates run folders."""
RECIPE_FILE = "recipe.yaml"
EXPORT_FILE = "export.json"
DATA_SETTINGS = ("data.channels=", "data.intensity.")
"""Keys that commands without a recipe accept."""


def _complete_silently(
    complete: Callable[Parameters, Sequence[Completion]],
) -> Callable[Parameters, list[Completion]]:
    """Decorate a completion: drop unusable texts, and print nothing if it fails."""

    @wraps(complete)
    def complete_silently(*args: Parameters.args, **kwargs: Parameters.kwargs) -> list[Completion]:
        try:
            completions = [*complete(*args, **kwargs)]
        except Exception:  # noqa: BLE001 - an error would appear inside the command that is typed
            return []
        # Scripts of shells insert a completion without quotes.
        return [
            completion
            for completion in completions
            if not any(
                map(str.isspace, completion[0] if isinstance(completion, tuple) else completion)
            )
        ]

    return complete_silently


@_complete_silently
def complete_recipes(incomplete: str) -> Sequence[Completion]:
    """Complete the name of a shipped recipe, with or without its folder, or a YAML file."""
    from resnet_tasks.recipe.shipped_recipes import list_recipes

    recipes = list_recipes()
    names = [(recipe.name, recipe.summary) for recipe in recipes]
    if not any(name.startswith(incomplete) for name, _ in names):
        names = [(recipe.path.stem, recipe.summary) for recipe in recipes]
    files = (file for suffix in ("yaml", "yml") for file in _list_below(incomplete, f"*.{suffix}"))
    return [*names, *files]


@_complete_silently
def complete_overrides(ctx: typer.Context, incomplete: str) -> Sequence[Completion]:
    """Complete `KEY=VALUE` of the recipe on the command line."""
    from resnet_tasks.recipe.key_completion import complete_assignment

    words = ctx.params.get("overrides") or []
    pending = _find_pending_key(words, incomplete)
    text = f"{pending}{incomplete}"
    names_recipe = not {"recipe", "name"}.isdisjoint(ctx.params)
    if not names_recipe and not text.startswith(DATA_SETTINGS):
        keys = [key for key in DATA_SETTINGS if key.startswith(text)]
        if len(keys) != 1:
            return keys
        text = keys[0]
    recipe = _read_recipe(ctx.params.get("recipe") or ctx.params.get("name"))
    completions = complete_assignment(text, recipe, _KNOWN_VALUES)
    return [(text.removeprefix(pending), description) for text, description in completions]


@_complete_silently
def complete_keys(incomplete: str) -> Sequence[Completion]:
    """Complete a section or key of recipes."""
    from resnet_tasks.recipe.key_completion import complete_assignment

    pairs = complete_assignment(incomplete, {"heads": {HEAD: {}}, "combine": {HEAD: {}}})
    return list(dict.fromkeys((text.partition("=")[0], meaning) for text, meaning in pairs))


@_complete_silently
def complete_split_criteria(incomplete: str) -> Sequence[Completion]:
    """Complete a criterion of `data split`, or a key that is measured on the images."""
    from resnet_tasks.data.splits.write_splits import By
    from resnet_tasks.data.subgroups.subgroups import MEASURED

    names = [*get_args(By), *MEASURED]
    return [name for name in names if name.startswith(incomplete)]


@_complete_silently
def complete_formats(incomplete: str) -> Sequence[Completion]:
    """Complete the name of a format that `data convert` reads."""
    from data_tools.formats import FORMATS

    return [(name, FORMATS.get(name).title) for name in FORMATS if name.startswith(incomplete)]


@_complete_silently
def complete_export_formats(incomplete: str) -> Sequence[Completion]:
    """Complete the name of a format that `data export` writes."""
    from data_tools.exporters.formats import EXPORTS

    return [(name, EXPORTS.get(name).title) for name in EXPORTS if name.startswith(incomplete)]


@_complete_silently
def complete_datasets(incomplete: str) -> Sequence[Completion]:
    """Complete the name of a dataset that `data prepare` knows, or a YAML file."""
    from data_tools.catalog import load_datasets

    names = [(name, dataset.origin.title) for name, dataset in load_datasets().items()]
    return [*names, *_list_below(incomplete, "*.yaml")]


@_complete_silently
def complete_format_options(ctx: typer.Context, incomplete: str) -> Sequence[Completion]:
    """Complete the name of an option of the format on the command line."""
    from data_tools.catalog import find_dataset
    from data_tools.exporters.formats import EXPORTS
    from data_tools.formats import FORMATS

    name = ctx.params.get("name")
    format_name = find_dataset(name).format if name else ctx.params["format_name"]
    formats = EXPORTS if ctx.command.name == "export" else FORMATS
    options = [f"{option}=" for option in formats.get(format_name).options]
    return [option for option in options if option.startswith(incomplete)]


@_complete_silently
def complete_runs(incomplete: str) -> Sequence[Completion]:
    """Complete a run folder."""
    return [*_list_folders(incomplete, RECIPE_FILE)]


@_complete_silently
def complete_models(incomplete: str) -> Sequence[Completion]:
    """Complete a run folder or an exported model."""
    exports = _list_folders(incomplete, f"exports/*/{EXPORT_FILE}")
    return [*_list_folders(incomplete, RECIPE_FILE), *exports]


@_complete_silently
def complete_replays(incomplete: str) -> Sequence[Completion]:
    """Complete the folder of a step that can be replayed."""
    return [*_list_folders(incomplete, "replays/*/*")]


@_complete_silently
def complete_checkpoints(ctx: typer.Context) -> Sequence[Completion]:
    """Complete the name of a checkpoint: `last`, `best`, and those of heads that the run has."""
    folders = (path for run in _find_runs(ctx) for path in run.glob("checkpoints/best-*/"))
    return ["last", "best", *sorted({folder.name for folder in folders})]


@_complete_silently
def complete_evaluations(ctx: typer.Context) -> Sequence[Completion]:
    """Complete the name of an evaluation of the runs on the command line."""
    folders = (folder for run in _find_runs(ctx) for folder in (run / "evaluations").iterdir())
    return sorted({folder.name for folder in folders if folder.is_dir()})


@_complete_silently
def complete_run_heads(ctx: typer.Context) -> Sequence[Completion]:
    """Complete the name of a head of the run on the command line."""
    recipes = [_read_recipe(run / RECIPE_FILE) for run in _find_runs(ctx)]
    return [(name, head["type"]) for recipe in recipes for name, head in recipe["heads"].items()]


@_complete_silently
def complete_backbones(incomplete: str) -> Sequence[Completion]:
    """Complete the name of a backbone."""
    return [name for name in _list_backbones() if name.startswith(incomplete)]


@_complete_silently
def complete_head_types(incomplete: str) -> Sequence[Completion]:
    """Complete the type of a head."""
    return [name for name in _list_head_types() if name.startswith(incomplete)]


def _list_backbones() -> list[str]:
    from resnet_tasks.backbone.catalog import list_variants

    return [variant.name for variant in list_variants()]


def _list_head_types() -> list[str]:
    """List the built-in heads and those of installed packages, without importing any."""
    from importlib.metadata import entry_points

    installed = [point.name for point in entry_points(group="resnet_tasks.heads")]
    return sorted({*HEAD_TYPES, *installed})


def _list_weights() -> list[str]:
    return ["none", "imagenet", *_list_folders("", RECIPE_FILE)]


HEAD_TYPES = (
    "classifier",
    "deeplabv3",
    "deeplabv3plus",
    "faster_rcnn",
    "fcos",
    "fpn",
    "linknet",
    "manet",
    "mask_rcnn",
    "pan",
    "pspnet",
    "retinanet",
    "segformer",
    "unet",
    "unetplusplus",
    "upernet",
)
"""Built-in heads, whose modules import torch."""
_KNOWN_VALUES: dict[str, Callable[[], Sequence[str]]] = {
    "backbone.name": _list_backbones,
    "backbone.weights": _list_weights,
    "extend.run": lambda: [*_list_folders("", RECIPE_FILE)],
    f"heads.{HEAD}.type": _list_head_types,
}


def _read_recipe(ref: Any) -> Any:
    """Return the parsed recipe of a command line, without validation; {} if there is none."""
    from resnet_tasks.errors import RecipeError
    from resnet_tasks.recipe.shipped_recipes import find_recipe
    from resnet_tasks.recipe.yaml_text import parse_yaml, read_yaml_text

    if ref is None:
        return {}
    try:
        path = find_recipe(ref)
        return parse_yaml(read_yaml_text(path), str(path)).value
    except (RecipeError, OSError, UnicodeDecodeError):
        return {}


def _find_runs(ctx: typer.Context) -> list[Path]:
    """Find the run folders among the words of the command line."""
    # Parsing stops at an option that has no value yet, so `ctx.params` may lack the folders.
    return [Path(word) for word in ctx.meta[WORDS] if Path(word, RECIPE_FILE).is_file()]


def _find_pending_key(words: Sequence[str], incomplete: str) -> str:
    """Return the start `KEY=` of an override that bash passes as several words; else "".

    Bash splits `KEY=VALUE` at the equals sign. If the cursor is directly after it, even the sign is
    missing, and the last word is a complete key.
    """
    if not words or "=" in incomplete:
        return ""
    if words[-1].endswith("="):
        return words[-1]
    return "" if incomplete or "=" in words[-1] or "." not in words[-1] else f"{words[-1]}="


def _list_folders(incomplete: str, content: str) -> Iterator[str]:
    """List folders below `runs`, and next to the incomplete path, that hold a file.

    Args:
        incomplete: Incomplete path.
        content: Pattern of the file, relative to a run folder, such as `recipe.yaml` or
            `exports/*/export.json`. The listed path is the folder of the file.
    """
    paths = [
        *(RUNS.glob(f"*/{content}") if RUNS.is_dir() else ()),
        *(RUNS.glob(f"*/*/{content}") if RUNS.is_dir() else ()),
        *(Path(path) for path in _list_below(incomplete, f"*/{content}")),
    ]
    folders = {path.parent.as_posix() for path in paths}
    return (folder for folder in sorted(folders) if "/." not in f"/{folder}")


def _list_below(incomplete: str, pattern: str) -> Iterator[str]:
    """List paths that match a pattern inside the folder of the incomplete path."""
    folder, slash, _ = incomplete.rpartition("/")
    base = Path(f"{folder}{slash}")
    return (
        f"{folder}{slash}{path.relative_to(base).as_posix()}" for path in sorted(base.glob(pattern))
    )
