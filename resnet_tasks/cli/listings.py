"""`heads` and `backbones`: listings of the parts that a recipe can name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resnet_tasks.cli.app import app
from resnet_tasks.errors import ResnetTasksError

if TYPE_CHECKING:
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


@app.command()
def heads() -> None:
    """List the available heads with their options and defaults."""
    from resnet_tasks.assemble.heads import BUILT_IN_HEADS
    from resnet_tasks.heads.base import HEADS

    assert BUILT_IN_HEADS  # the import registers the built-in heads
    for name in HEADS:
        head = HEADS.get(name)
        typer.echo(f"{name}: {head.task}, reads {', '.join(head.in_levels)}")
        for option, field in head.Options.model_fields.items():
            default = field.get_default(call_default_factory=True)
            printable = list(default) if isinstance(default, tuple) else default
            typer.echo(f"    {option}: {json.dumps(printable, default=str)}")


@app.command()
def backbones(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, such as 'resnet*d'")] = "*",
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
    from rich.console import Console
    from rich.table import Table

    from resnet_tasks.backbone.catalog import forbids_commercial_use

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
