"""The command line's frame: the app, its groups, shared options, and how mistakes are told."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from resnet_tasks.errors import DataError, ResnetTasksError, RunError

if TYPE_CHECKING:
    from resnet_tasks.recipe.schema.evaluation import SlidingRecipe
    from resnet_tasks.recipe.schema.recipe import Recipe
    from resnet_tasks.runs.run import Run

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What a disk answers that takes no more; its user can mend it."""
CLOSED = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR)
"""What a system answers where a file may not, or cannot, be opened; its user can mend it too."""
PLAIN = None
"""Help without boxes: what draws them takes as long to import as all the rest of `--help`."""
MISTAKE = 2
STOPPED = 130
STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that ask a process to end, as far as the system has them."""
VERBS = (
    "finetune",
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
    "backbones",
)
"""Order in the help."""


class Split(StrEnum):
    """A part of a data set."""

    train = "train"
    val = "val"
    test = "test"


class Checkpoint(StrEnum):
    """A checkpoint of a run."""

    last = "last"
    best = "best"


class TtaChoice(StrEnum):
    """Test-time augmentation."""

    flips = "flips"
    scales = "scales"
    both = "flips+scales"


class _CommandGroup(TyperGroup):
    """Lists its verbs with whole sentences, where plain help cuts them to a line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the list of verbs into the help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, verb.get_short_help_str(limit=500)) for name, verb in commands if verb]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _RootGroup(_CommandGroup):
    """Turns errors that a user can mend into one line and an exit code, for every verb."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs in the order in which they are used; new ones at the end."""
        commands = super().list_commands(ctx)
        return sorted(commands, key=lambda verb: VERBS.index(verb) if verb in VERBS else len(VERBS))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses empty arguments: as a path they would mean the current folder."""
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
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ResnetTasksError as error:
            print_message(str(error))
            raise typer.Exit(MISTAKE) from None
        except OSError as error:
            print_message(_describe_disk_error(error))
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            print_message("by Ctrl-C; what was written stays usable", "stopped:")
            raise typer.Exit(STOPPED) from None


def _describe_disk_error(error: OSError) -> str:
    """What a disk refused, in a sentence.

    Raises:
        OSError: The error itself, where its user cannot mend it.
    """
    location = f": {error.filename}" if error.filename else ""
    if error.errno in DISK:
        return f"a file cannot be written ({error.strerror}){location}; free space and repeat"
    if error.errno in CLOSED and location:
        return f"a file cannot be opened ({error.strerror}){location}; mend its place or its rights"
    raise error


app = typer.Typer(
    cls=_RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=PLAIN,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One pretrained ResNet, many heads, one recipe: detection and segmentation on COCO data.",
)
recipes_app = typer.Typer(
    cls=_CommandGroup,
    no_args_is_help=True,
    help="List, show, copy and check recipes.",
    rich_markup_mode=PLAIN,
)
data_app = typer.Typer(
    cls=_CommandGroup,
    no_args_is_help=True,
    help="Bring data to COCO format, check and measure it.",
    rich_markup_mode=PLAIN,
)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Changes, as in training.epochs=20 or training.steps=[0.5,1]"
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that holds data sets; default: $RESNET_TASKS_DATA, else ./data"),
]
Trust = Annotated[
    bool, typer.Option("--trust-plugins", help="Run the Python code that the recipe names")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by finetune")]
CheckpointOption = Annotated[Checkpoint, typer.Option(help="Whose weights to use")]
Calibrated = Annotated[
    bool, typer.Option("--calibrated", help="With the confidences that `calibrate` has fitted")
]
Tta = Annotated[
    TtaChoice | None,
    typer.Option(help="Test-time augmentation: images seen mirrored too, at three sizes, or both"),
]


Tiles = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", help="Predict big images in square windows of this side"),
]
TileOverlap = Annotated[
    float | None,
    typer.Option(min=0, max=0.9, help="Least share of a window that its neighbor shows [0.25]"),
]


def build_window_options(tiles: int | None, overlap: float | None) -> SlidingRecipe | None:
    """The windows of `--tiles` and `--overlap`; None: what the recipe says.

    Raises:
        DataError: If they are none.
    """
    if tiles is None:
        if overlap is not None:
            raise DataError("--overlap is that of --tiles PIXELS; give both")
        return None
    if tiles < 64 or tiles % 32:
        nearest = max(64, round(tiles / 32) * 32)
        raise DataError(
            f"--tiles is {tiles}; windows have a side of 64 or more that is a multiple of 32, such "
            f"as {nearest}"
        )
    from resnet_tasks.recipe.schema.evaluation import SlidingRecipe

    return SlidingRecipe(height=tiles, width=tiles, overlap=0.25 if overlap is None else overlap)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"resnet-tasks {version('resnet-tasks')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version"),
    ] = False,
) -> None:
    pass


def get_process_rank() -> int | None:
    """The number that a launcher (torchrun, accelerate) gave this process; None if it is alone."""
    is_distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return int(os.environ.get("RANK", "0")) if is_distributed else None


@contextmanager
def exit_cleanly_on_signal(out: Path) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end what is inside with one sentence.

    What is unfinished is taken away: signals come as exceptions, also those that would end the
    process without a word.

    Args:
        out: What will not be there.

    Raises:
        Exit: 128 and the number of the signal, as shells have it.
    """
    received_signals: list[int] = []

    def raise_interrupt(number: int, _: FrameType | None) -> None:
        if not received_signals:  # once: taking things away is not to be stopped again
            received_signals.append(number)
            raise KeyboardInterrupt

    previous_handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only there can it be done
        signals = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]
        previous_handlers = {
            signal_number: signal.signal(signal_number, raise_interrupt)
            for signal_number in signals
        }
    try:
        yield
    except KeyboardInterrupt:
        number = received_signals[0] if received_signals else signal.SIGINT
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        print_message(f"by {name}; nothing was written to {out}", "stopped:")
        raise typer.Exit(128 + number) from None
    finally:
        for signal_number, handler in previous_handlers.items():
            signal.signal(signal_number, handler)


def print_message(message: str, prefix: str = "error:") -> None:
    """Prints one line on standard error."""
    from rich.console import Console
    from rich.text import Text

    index = get_process_rank()
    if index is not None:
        prefix = f"process {index}: {prefix}"
    line = Text.assemble((prefix, "bold red"), " ", message)
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def run_plugins(recipe: Recipe, trusted: bool) -> None:
    """Executes the code that a recipe names, where the user agreed."""
    if recipe.plugins:
        from resnet_tasks.recipe.plugins import load_plugins

        load_plugins(recipe, trust=_confirm_plugins(recipe, trusted))


def _confirm_plugins(recipe: Recipe, trusted: bool) -> bool:
    """Whether the recipe's plugins may run; asks where somebody is there to answer."""
    if trusted or not recipe.plugins or not sys.stdin.isatty():
        return trusted
    plugin_list = "\n  ".join(recipe.plugins)
    return typer.confirm(
        f"Recipe {recipe.name} wants to run this code on your machine:\n  {plugin_list}\nRun it?"
    )


def open_run(run: Path, trusted: bool) -> Run:
    """A run folder, with its plugins where the user agreed; its model is going to be used.

    Raises:
        RunError: If it is none.
    """
    from resnet_tasks.recipe.load import load_recipe

    # Looked at before torch is imported, so that a mistyped folder is refused at once.
    if not (run / "recipe.yaml").is_file():
        raise RunError(
            f"{run} is not a run folder: it has no recipe.yaml; runs are made by `resnet-tasks "
            "finetune`"
        )
    trusted = _confirm_plugins(load_recipe(run / "recipe.yaml"), trusted)

    from resnet_tasks.runs.run import Run
    from resnet_tasks.runtime.malloc import keep_freed_memory

    keep_freed_memory()
    return Run.open(run, trust_plugins=trusted)


@contextmanager
def show_progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; gives the function to call with (done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=None)
        yield lambda completed, total: progress.update(task, completed=completed, total=total)
