"""Frame of the command line: the app, its groups, shared options, and reporting of errors."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_tasks.cli.assistance.command_group import CommandGroup
from resnet_tasks.cli.assistance.command_line import WORDS, join_assignments
from resnet_tasks.cli.assistance.completion import (
    complete_checkpoints,
    complete_overrides,
    complete_runs,
)
from resnet_tasks.cli.assistance.dataset_layouts import complete_message
from resnet_tasks.cli.assistance.output import confirm, echo
from resnet_tasks.cli.assistance.suggestions import explain_unknown_options
from resnet_tasks.cli.disk_errors import describe_disk_error
from resnet_tasks.errors import DataError, NotRecipeError, ResnetTasksError, RunError, limit_message
from resnet_tasks.files.partial_paths import remove_unfinished
from resnet_tasks.runtime.signals import handle_signals

if TYPE_CHECKING:
    from resnet_tasks.recipe.schema.evaluation import SlidingRecipe
    from resnet_tasks.recipe.schema.recipe import Recipe
    from resnet_tasks.runs.run import Run
    from resnet_tasks.runtime.progress import Report

PLAIN = None
"""Markup mode for help without boxes: drawing boxes takes as long to import as all other help."""
MISTAKE = 2
STOPPED = 130
STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that ask a process to end."""
VERBS = (
    "finetune",
    "lr-find",
    "benchmark",
    "replay",
    "evaluate",
    "calibrate",
    "operating-point",
    "predict",
    "export",
    "explain",
    "report",
    "compare",
    "push",
    "pull",
    "recipes",
    "data",
    "heads",
    "combiners",
    "evaluators",
    "augmentations",
    "backbones",
)
"""Order of the commands in the help."""


class Split(StrEnum):
    """Split of a dataset."""

    train = "train"
    val = "val"
    test = "test"


class TtaChoice(StrEnum):
    """Kind of test-time augmentation."""

    flips = "flips"
    scales = "scales"
    both = "flips+scales"


class _RootGroup(CommandGroup):
    """Group of all commands, which reports user errors in one line with an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands in the order of their typical use, unknown ones at the end."""
        commands = super().list_commands(ctx)
        return sorted(commands, key=lambda verb: VERBS.index(verb) if verb in VERBS else len(VERBS))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse empty arguments, which as a path would mean the current folder."""
        if ctx.resilient_parsing:  # a shell completes the command line
            args = join_assignments(args)
        ctx.meta[WORDS] = tuple(args)
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        for previous, argument in pairwise(["resnet-tasks", *args]):
            if argument and not (argument.startswith("--") and argument.endswith("=")):
                continue
            problem = (
                f"{argument!r} has no value"
                if argument
                else f"the argument after {previous!r} is empty"
            )
            print_message(f"{problem}; is a shell variable unset? (. is the current folder)")
            raise typer.Exit(MISTAKE)
        try:
            with explain_unknown_options(ctx.meta[WORDS]):
                return super().parse_args(ctx, args)
        except ResnetTasksError as error:
            print_message(str(error))
            raise typer.Exit(MISTAKE) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            with explain_unknown_options(ctx.meta[WORDS]):
                return super().invoke(ctx)
        except NotRecipeError as error:
            print_message(complete_message(error))
            raise typer.Exit(MISTAKE) from None
        except ResnetTasksError as error:
            print_message(str(error))
            raise typer.Exit(MISTAKE) from None
        except OSError as error:
            print_message(describe_disk_error(error))
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            print_message("by Ctrl-C; what was written stays usable", "stopped:")
            raise typer.Exit(STOPPED) from None


app = typer.Typer(
    cls=_RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=PLAIN,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One pretrained ResNet, many heads, one recipe: detection and segmentation on COCO data.",
)
recipes_app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="List, show, copy and check recipes.",
    rich_markup_mode=PLAIN,
)
data_app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Convert data to COCO format, check and measure it.",
    rich_markup_mode=PLAIN,
)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys of the recipe to change, such as training.epochs=20 or "
        "training.steps=[0.5,1]; `resnet-tasks recipes keys` lists them",
        autocompletion=complete_overrides,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Datasets; default: $RESNET_TASKS_DATA, else ./data"),
]
Trust = Annotated[
    bool,
    typer.Option("--trust-plugins", help="Run the code in the recipe's `plugins` without asking"),
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder written by finetune, such as runs/quickstart",
        autocompletion=complete_runs,
    ),
]
CheckpointOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Weights to load: last, best (by evaluation.best), or best-HEAD if the run was "
        "trained with evaluation.best_per_head",
        autocompletion=complete_checkpoints,
    ),
]
Calibrated = Annotated[
    bool,
    typer.Option("--calibrated", help="Use the confidences that `resnet-tasks calibrate` fitted"),
]
Tta = Annotated[
    TtaChoice | None,
    typer.Option(help="Test-time augmentation with mirrored images, three sizes, or both"),
]


Tiles = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", help="Side of square windows for large images, such as 512"),
]
TileOverlap = Annotated[
    float | None,
    typer.Option(
        metavar="FRACTION",
        min=0,
        max=0.9,
        help="Minimum fraction of a window that its neighbor overlaps; default: 0.25",
    ),
]


def build_window_options(tiles: int | None, overlap: float | None) -> SlidingRecipe | None:
    """Build the sliding windows of `--tiles` and `--overlap`; return None to use the recipe's.

    Raises:
        DataError: If the size is not usable, or `--overlap` is given without `--tiles`.
    """
    if tiles is None:
        if overlap is not None:
            raise DataError("--overlap applies only to --tiles PIXELS; give both")
        return None
    if tiles < 64 or tiles % 32:
        nearest = max(64, round(tiles / 32) * 32)
        raise DataError(
            f"--tiles is {tiles}; the side of a window must be a multiple of 32 and at least "
            f"64, such as {nearest}"
        )
    from resnet_tasks.recipe.schema.evaluation import SlidingRecipe

    return SlidingRecipe(height=tiles, width=tiles, overlap=0.25 if overlap is None else overlap)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        echo(f"resnet-tasks {version('resnet-tasks')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit"
        ),
    ] = False,
) -> None:
    pass


def get_process_rank() -> int | None:
    """Return the rank that a launcher (torchrun, accelerate) set; None for a single process."""
    is_distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return int(os.environ.get("RANK", "0")) if is_distributed else None


@contextmanager
def exit_cleanly_on_signal(out: Path) -> Iterator[None]:
    """Handle Ctrl-C, SIGTERM and a closed terminal inside the context: clean up and exit.

    The signals are raised as exceptions, so that unfinished files are removed. By default,
    some of the signals would end the process immediately. One sentence reports the stop.

    Args:
        out: Path of the result that is not written, for the message.

    Raises:
        Exit: If a signal arrives; the code is 128 plus its number, as in shells.
    """
    received_signals: list[int] = []

    def raise_interrupt(number: int) -> None:
        if not received_signals:  # a second signal must not interrupt the cleanup
            received_signals.append(number)
            raise KeyboardInterrupt

    with handle_signals(STOPS, raise_interrupt):
        try:
            yield
        except KeyboardInterrupt:
            remove_unfinished()
            number = received_signals[0] if received_signals else signal.SIGINT
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            print_message(f"by {name}; nothing was written to {out}", "stopped:")
            raise typer.Exit(128 + number) from None


def print_message(message: str, prefix: str = "error:") -> None:
    """Print one line to standard error."""
    from resnet_tasks.runtime.console import Console, Text

    index = get_process_rank()
    if index is not None:
        prefix = f"process {index}: {prefix}"
    line = Text.assemble((prefix, "bold red"), " ", limit_message(message))
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def run_plugins(recipe: Recipe, trusted: bool) -> None:
    """Run the code that a recipe names, if the user agrees."""
    if recipe.plugins:
        from resnet_tasks.recipe.plugins import load_plugins

        load_plugins(
            recipe, trust=confirm_plugins(f"Recipe {recipe.name}", recipe.plugins, trusted)
        )


def confirm_plugins(source: str, plugins: Sequence[str], trusted: bool) -> bool:
    """Return whether plugins may run; ask on a terminal.

    Args:
        source: Recipe or export that names the plugins, for the question.
        plugins: Python files and modules.
        trusted: Whether the user already agreed.
    """
    if trusted or not plugins or not sys.stdin.isatty():
        return trusted
    plugin_list = "\n  ".join(plugins)
    return confirm(f"{source} wants to run this code on your machine:\n  {plugin_list}\nRun it?")


def read_run(folder: Path) -> Run:
    """Read a run folder without running its plugins.

    Raises:
        RunError: If it is not a run folder.
    """
    # Checked before torch is imported, so that a mistyped folder is refused at once.
    if not (folder / "recipe.yaml").exists():
        raise RunError(
            f"{folder} is not a run folder: it has no recipe.yaml; create run folders with "
            "`resnet-tasks finetune`"
        )

    from resnet_tasks.runs.run import Run

    return Run.read(folder)


def open_run(folder: Path, trusted: bool) -> Run:
    """Open a run folder in order to use its model, and run its plugins if the user agrees.

    Raises:
        RunError: If it is not a run folder.
    """
    from resnet_tasks.runtime.malloc import keep_freed_memory

    run = read_run(folder)
    keep_freed_memory()
    run_plugins(run.recipe, trusted)
    return run


def show_progress(text: str) -> AbstractContextManager[Report]:
    """Show a progress bar on standard error; yield the function to call with (done, total)."""
    from resnet_tasks.runtime.console import Console
    from resnet_tasks.runtime.progress import report_progress

    return report_progress(Console(stderr=True), text)
