"""`heads`, `combiners`, `evaluators`, `augmentations`, `backbones`: parts that a recipe names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resnet_tasks.cli.app import app
from resnet_tasks.cli.assistance.completion import complete_backbones, complete_head_types
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.docstrings import get_first_sentence, get_introduction
from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.json_schema import JsonSchema
from resnet_tasks.option_help import format_options, format_rows, list_options, wrap
from resnet_tasks.registry import suggest_nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from resnet_tasks.backbone.catalog import Variant

COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("backbone", "left"),
    ("M params", "right"),
    ("GFLOPs", "right"),
    ("weights", "left"),
    ("top-1 %", "right"),
    ("px", "right"),
    ("license", "left"),
)
LEGEND = """
M params, GFLOPs: without the classifier; GFLOPs for 224 x 224 pixels, where a multiplication and an
addition count as one FLOP, as in most papers. Top-1: ImageNet-1k validation at the stated size.
-: no known published figure, or no weights. (imagenet): the weights of `weights: imagenet`.
*: not for commercial use, requires backbone.accept_license=true."""


Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Name of the one to explain; omit it for a list"),
]
PluginFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Python file or module that registers more heads, combiners or evaluators; it is "
        "executed. Repeat the option for several",
    ),
]


@dataclass(frozen=True)
class Part:
    """Entry of a listing.

    Attributes:
        facts: Task and inputs, in one line; empty if there is nothing to state.
        docstring: Docstring of its class.
        options: Class of its options.
        get_schema: Function that returns the schema of the options.
    """

    facts: str
    docstring: str | None
    options: type[BaseModel]
    get_schema: Callable[[type[BaseModel]], JsonSchema]


@app.command()
def heads(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Name of the one to explain; omit it for a list",
            autocompletion=complete_head_types,
        ),
    ] = None,
    plugin: PluginFiles = None,
) -> None:
    """List the heads, or explain the options of one head."""
    load_plugin_files(plugin)
    from resnet_tasks.assemble.recipe_schema import get_head_schema
    from resnet_tasks.heads.base import HEADS

    if name is not None:
        HEADS.get(name)
    parts = {
        head_name: Part(
            f"{head.task}, reads {', '.join(head.in_levels)}",
            head.__doc__,
            head.Options,
            get_head_schema,
        )
        for head_name in HEADS
        for head in (HEADS.get(head_name),)
    }
    _print_parts("heads", parts, name, "heads.NAME.options", "heads.NAME.type")


@app.command()
def combiners(name: Name = None, plugin: PluginFiles = None) -> None:
    """List the combiners of several heads, or explain the options of one combiner."""
    load_plugin_files(plugin)
    from resnet_tasks.inference.combiners import COMBINERS
    from resnet_tasks.options import get_options_schema

    if name is not None:
        COMBINERS.get(name)
    parts = {}
    for combiner_name in COMBINERS:
        combiner = COMBINERS.get(combiner_name)
        roles = ", ".join(f"{role}: a head of {task}" for role, task in combiner.roles.items())
        facts = f"{combiner.task}, from {roles}"
        parts[combiner_name] = Part(facts, combiner.__doc__, combiner.Options, get_options_schema)
    _print_parts("combiners", parts, name, "combine.NAME.options", "combine.NAME.type")


@app.command()
def evaluators(name: Name = None, plugin: PluginFiles = None) -> None:
    """List the additional evaluators, or explain the options of one evaluator."""
    load_plugin_files(plugin)
    from resnet_tasks.evaluation.evaluators import BUILT_IN_EVALUATORS
    from resnet_tasks.options import get_options_schema
    from resnet_tasks.registry import EXTRA_EVALUATORS

    assert BUILT_IN_EVALUATORS  # the import registers the built-in evaluators
    if name is not None:
        EXTRA_EVALUATORS.get(name)
    parts = {}
    for evaluator_name in EXTRA_EVALUATORS:
        evaluator = EXTRA_EVALUATORS.get(evaluator_name)
        parts[evaluator_name] = Part(
            f"for heads of {evaluator.task}",
            evaluator.__doc__,
            evaluator.Options,
            get_options_schema,
        )
    place = f"evaluation.extra.HEAD.{name}"
    _print_parts("evaluators", parts, name, place, "evaluation.extra.HEAD")


@app.command()
def augmentations(name: Name = None) -> None:
    """List the augmentation presets and transforms, or explain one of them."""
    from resnet_tasks.data.augmentation.transform_schemas import (
        build_transform_schema,
        list_transforms,
    )
    from resnet_tasks.recipe.presets import PRESETS, expand_preset
    from resnet_tasks.recipe.yaml_text import dump_yaml

    if name in PRESETS:
        echo(f"# {_describe_preset(name)}\n{dump_yaml({'augment': expand_preset(name, 3)})}")
        return
    transforms = list_transforms()
    if name is not None and name not in transforms:
        hint = suggest_nearest(name, [*PRESETS, *transforms])
        raise ResnetTasksError(f"{name!r} is neither a preset nor a transform{hint}")
    if name is not None:
        schema = build_transform_schema(name)
        place = f"augment: [{{{name}: {{KEY: VALUE}}}}]"
        print_options(f"{name}: {schema['description']}", JsonSchema(schema), place)
        return
    presets = [(preset, [_describe_preset(preset)]) for preset in PRESETS]
    rows = [
        (transform, [get_first_sentence(build_transform_schema(transform)["description"])])
        for transform in transforms
    ]
    width = shutil.get_terminal_size().columns
    echo(f"Presets (recipe: augment: PRESET):\n{format_rows(presets, width)}\n")
    echo(f"Transforms of albumentations (recipe: augment):\n{format_rows(rows, width)}\n")
    echo("Steps of a preset, parameters of a transform: resnet-tasks augmentations NAME")


def _describe_preset(name: str) -> str:
    from resnet_tasks.recipe.presets import PRESETS

    sentence = get_introduction(PRESETS[name].__doc__)
    return sentence.removeprefix("Return the ").capitalize()


def load_plugin_files(plugins: Sequence[str] | None) -> None:
    """Run the plugins that the user named on the command line."""
    from resnet_tasks.recipe.plugins import run_plugins

    run_plugins(plugins or ())


def _print_parts(
    command: str, parts: Mapping[str, Part], name: str | None, place: str, owner: str
) -> None:
    """Print the list of parts, or the options of one part.

    Args:
        command: Name of the command, which is also the plural of the parts.
        parts: Name -> part.
        name: Name of the part to explain; None for the list.
        place: Key path of the options in a recipe.
        owner: Key path in a recipe at which the name is written.
    """
    if name is not None:
        part = parts[name]
        introduction = get_introduction(part.docstring)
        schema = part.get_schema(part.options)
        print_options(f"{name}: {part.facts}\n{introduction}", schema, f"{place}.KEY=VALUE")
        return
    if not parts:
        echo(f"no {command} are registered; --plugin FILE runs a file that registers some")
        return
    rows = [
        (
            part_name,
            [
                get_first_sentence(get_introduction(part.docstring)),
                part.facts,
                f"options: {', '.join(part.options.model_fields) or 'none'}",
            ],
        )
        for part_name, part in parts.items()
    ]
    width = shutil.get_terminal_size().columns
    echo(f"{command.capitalize()} (recipe: {owner}):\n{format_rows(rows, width)}\n")
    echo(f"Meaning and defaults of the options: resnet-tasks {command} NAME")


def print_options(introduction: str, schema: JsonSchema, place: str) -> None:
    """Print an introduction and the options that a schema has.

    Args:
        introduction: Text, one line per paragraph.
        schema: Schema of the options.
        place: Syntax or place of the options, shown in parentheses after the heading.
    """
    width = shutil.get_terminal_size().columns
    for paragraph in introduction.splitlines():
        echo("\n".join(wrap(paragraph, width)))
    options = list_options(schema)
    echo(f"\nOptions ({place}):" if options else "\nIt has no options.")
    if options:
        echo(format_options(options, width))


@app.command()
def backbones(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN",
            help="Shell pattern of names, such as 'resnet*d'",
            autocompletion=complete_backbones,
        ),
    ] = "*",
) -> None:
    """List the ResNet variants with their size, GFLOPs, weights and licenses."""
    from resnet_tasks.backbone.catalog import list_variants

    variants = list_variants(pattern)
    if not variants:
        raise ResnetTasksError(
            f"no backbone matches {pattern!r}; `resnet-tasks backbones` lists all"
        )
    _print_backbones(variants)


def _print_backbones(variants: Sequence[Variant]) -> None:
    """Print one row per weight set: a table on a terminal, complete plain columns in a pipe."""
    from rich.table import Table

    from resnet_tasks.backbone.catalog import forbids_commercial_use
    from resnet_tasks.runtime.console import Console

    is_terminal = Console().is_terminal
    console = Console(width=max(Console().width, 110) if is_terminal else 160, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name, side in COLUMNS:
        table.add_column(name, justify=side, no_wrap=True)
    for variant in variants:
        size = (
            variant.name,
            f"{variant.parameters / 1e6:.1f}",
            f"{variant.multiply_adds / 1e9:.2f}",
        )
        for number, weights in enumerate(variant.weights or (None,)):
            cells = size if number == 0 or not is_terminal else ("", "", "")
            if weights is None:
                table.add_row(*cells, "-", "-", "-", "-")
                continue
            limited = "*" if forbids_commercial_use(weights.license) else ""
            table.add_row(
                *cells,
                weights.spec + (" (imagenet)" if weights.is_default else ""),
                "-" if weights.top1 is None else f"{100 * weights.top1:.2f}",
                "-" if weights.image_size is None else str(weights.image_size),
                weights.license + limited,
            )
    console.print(table, highlight=False, markup=False)
    if is_terminal:
        console.print(LEGEND, highlight=False, markup=False)
