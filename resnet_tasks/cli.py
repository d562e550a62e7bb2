"""The command line: verbs only.

Heavy modules are imported inside the verb, so that help and lists come at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from resnet_tasks.errors import DataError, RecipeError, ResnetTasksError, RunError

if TYPE_CHECKING:
    from data_tools.data_card import DataCard
    from resnet_tasks.data.coco_records import CheckReport
    from resnet_tasks.recipe.schema import Recipe
    from resnet_tasks.training.run import Run

MISTAKE = 2
STOPPED = 130
SHOWN_PROBLEMS = 10
"""Problems of one kind that `data check` prints before it counts the rest."""


class Split(StrEnum):
    """A part of a data set."""

    train = "train"
    val = "val"
    test = "test"


class Checkpoint(StrEnum):
    """A checkpoint of a run."""

    last = "last"
    best = "best"


class _Verbs(TyperGroup):
    """Turns errors that a user can mend into one line and an exit code, for every verb."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ResnetTasksError as error:
            _complain(str(error))
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            _complain("stopped by Ctrl-C; what was written stays usable", "stopped:")
            raise typer.Exit(STOPPED) from None


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One pretrained ResNet, many heads, one recipe: detection and segmentation on COCO data.",
)
recipes = typer.Typer(no_args_is_help=True, help="List, show, copy and check recipes.")
data = typer.Typer(no_args_is_help=True, help="Bring data to COCO format, and check it.")
app.add_typer(recipes, name="recipes")
app.add_typer(data, name="data")

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
Which = Annotated[Checkpoint, typer.Option(help="Whose weights to use")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"resnet-tasks {version('resnet-tasks')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    pass


@app.command()
def finetune(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a YAML file"),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; default: runs/<recipe>-<time>"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a run that was stopped"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything, train nothing")
    ] = False,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Fine-tune the model of a recipe and judge it."""
    if resume is not None:
        chosen = _recipe_of_run(resume, recipe, overrides, out)
    elif recipe is None:
        raise RecipeError(
            "finetune needs a recipe: a name of `resnet-tasks recipes list`, or a YAML file"
        )
    else:
        from resnet_tasks.recipe.load import load_recipe

        chosen = load_recipe(recipe, overrides or ())
    _run_plugins(chosen, trust_plugins)
    if recipe is not None:
        _draw_cells(recipe, chosen, data_root)

    from rich.console import Console

    from resnet_tasks.training.finetune import Stopped, finetune_recipe

    try:
        finetune_recipe(
            chosen,
            out=out,
            resume=resume,
            dry_run=dry_run,
            data_root=data_root,
            console=Console(),
        )
    except Stopped as stopped:
        _complain(str(stopped), "stopped:")
        raise typer.Exit(STOPPED) from None


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[Split, typer.Option(help="Which part of the recipe's data")] = Split.val,
    annotations: Annotated[
        Path | None,
        typer.Option(help="A COCO file to judge on instead"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of that file's pictures; default: its own folder"),
    ] = None,
    checkpoint: Which = Checkpoint.last,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Judge a run; writes RUN/evaluations/<split>."""
    if images is not None and annotations is None:
        raise DataError("--images names the pictures of --annotations FILE; give that too")

    from rich.console import Console

    from resnet_tasks.training.run import metric_table

    opened = _open_run(run, trust_plugins)
    metrics = opened.evaluate(
        split.value,
        annotations=annotations,
        images=images,
        checkpoint=checkpoint.value,
        data_root=data_root,
    )
    folder = opened.evaluation_folder(
        split.value, annotations=annotations, checkpoint=checkpoint.value
    )
    judged = annotations or split.value
    Console().print(metric_table(metrics, f"{run}: {judged}, {checkpoint.value} checkpoint"))
    typer.echo(f"written to {folder}")


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Files or folders")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; default: RUN/predictions"),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out detections that score less"),
    ] = None,
    checkpoint: Which = Checkpoint.last,
    trust_plugins: Trust = False,
) -> None:
    """Predict pictures: COCO results, label maps and drawings."""
    opened = _open_run(run, trust_plugins)
    folder = opened.predict_paths(
        images, out=out or run / "predictions", score=score, checkpoint=checkpoint.value
    )
    typer.echo(f"written to {folder}")


@app.command()
def heads() -> None:
    """List the heads that a recipe can name, with their options and defaults."""
    from resnet_tasks.assemble import BUILT_IN_HEADS
    from resnet_tasks.heads.base import HEADS

    assert BUILT_IN_HEADS  # importing them registered them
    for name in HEADS:
        head = HEADS.get(name)
        typer.echo(f"{name}: {head.task.name}, reads {', '.join(head.in_levels)}")
        for option, field in head.Options.model_fields.items():
            default = field.get_default(call_default_factory=True)
            shown = list(default) if isinstance(default, tuple) else default
            typer.echo(f"    {option}: {json.dumps(shown, default=str)}")


@app.command()
def backbones(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, as in 'resnet*d'")] = "*",
) -> None:
    """List the ResNet variants that a recipe can name."""
    from resnet_tasks.backbone.resnet import backbone_names

    names = backbone_names(pattern)
    if not names:
        raise ResnetTasksError(
            f"no backbone matches {pattern!r}; `resnet-tasks backbones` lists all"
        )
    typer.echo("\n".join(names))


@recipes.command("list")
def list_all() -> None:
    """List the shipped recipes."""
    from resnet_tasks.recipe.shelf import list_recipes

    found = list_recipes()
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        typer.echo(f"{each.name:{width}}  {each.summary}")


@recipes.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Print a recipe."""
    from resnet_tasks.recipe.shelf import find_recipe

    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipes.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    target: Annotated[
        Path | None,
        typer.Argument(help="New file, or a folder for it; default: here"),
    ] = None,
) -> None:
    """Copy a shipped recipe, to be changed."""
    from resnet_tasks.recipe.shelf import copy_recipe

    typer.echo(f"copied to {copy_recipe(name, target)}")


@recipes.command()
def validate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE")],
    overrides: Overrides = None,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Check a recipe and build its model, without weights or training."""
    from resnet_tasks.recipe.load import load_recipe

    chosen = load_recipe(recipe, overrides or ())
    _run_plugins(chosen, trust_plugins)

    from resnet_tasks.assemble import check_recipe

    typer.echo(f"valid: {check_recipe(chosen, data_root)}")


@recipes.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from resnet_tasks.recipe.load import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


@data.command()
def prepare(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Data set; leave it out for a list"),
    ] = None,
    options: Overrides = None,
    source: Annotated[
        Path | None,
        typer.Option(help="Folder that the data set was unpacked to"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Result; default: NAME below $RESNET_TASKS_DATA, else below ./data"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result")] = False,
) -> None:
    """Convert a data set known by name; nothing is downloaded."""
    from data_tools.catalogue import DATA_SETS
    from data_tools.catalogue import prepare as run
    from resnet_tasks.recipe.places import data_base

    if name is None:
        for key, each in DATA_SETS.items():
            about = each.origin
            typer.echo(f"{key:8}  {about.title} ({about.licence}); {about.homepage}")
        return
    known = DATA_SETS.get(name)
    typed = _options(known.format if known else "", options or [])
    folder = out or data_base() / name
    with _bar(f"Preparing {name}") as advance:
        card = run(name, source, folder, overwrite=overwrite, progress=advance, **typed)
    _say_card(card, folder)


@data.command()
def convert(
    format_name: Annotated[
        str, typer.Argument(metavar="FORMAT", help="voc, label-maps or instance-masks")
    ],
    source: Annotated[Path, typer.Argument(help="Folder to read")],
    out: Annotated[Path, typer.Argument(help="Folder for the COCO files")],
    options: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result")] = False,
) -> None:
    """Convert a folder to COCO format."""
    from data_tools.catalogue import convert as run

    typed = _options(format_name, options or [])
    with _bar(f"Converting {source}") as advance:
        card = run(format_name, source, out, overwrite=overwrite, progress=advance, **typed)
    _say_card(card, out)


@data.command()
def check(
    file: Annotated[Path, typer.Argument(help="COCO JSON")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures; default: what the file says, else its own"),
    ] = None,
    read_images: Annotated[
        bool, typer.Option("--read-images", help="Also decode every picture")
    ] = False,
) -> None:
    """Say everything that is wrong with a COCO file; exits with 2 if it cannot be used."""
    from resnet_tasks.data.coco import check_coco

    report = check_coco(file, images_root=images, read_images=read_images)
    _say_report(report)
    if not report.is_usable:
        raise typer.Exit(MISTAKE)


def _complain(message: str, prefix: str = "error:") -> None:
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((prefix, "bold red"), " ", message)
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def _recipe_of_run(
    run: Path, recipe: str | None, overrides: list[str] | None, out: Path | None
) -> Recipe:
    """The recipe of a run that is resumed; nothing about it may change."""
    changes = [each for each in (recipe, *(overrides or ())) if each is not None and "=" in each]
    if changes:
        raise RunError(
            f"--resume goes on with the recipe of {run} as it is; leave out {' '.join(changes)}, "
            "or start a new run"
        )
    if out is not None:
        raise RunError(f"--resume goes on in {run}; leave out --out {out}")
    if not (run / "recipe.yaml").is_file():
        raise RunError(
            f"{run} is not a run folder: it has no recipe.yaml; name one made by finetune"
        )

    from resnet_tasks.recipe.load import load_recipe

    kept = load_recipe(run / "recipe.yaml")
    if recipe is not None and (given := load_recipe(recipe).name) != kept.name:
        raise RunError(f"{run} is a run of {kept.name}, not of {given}; leave the recipe out")
    return kept


def _run_plugins(recipe: Recipe, trusted: bool) -> None:
    if recipe.plugins:
        from resnet_tasks.recipe.plugins import load_plugins

        load_plugins(recipe, trust=_agreed(recipe, trusted))


def _agreed(recipe: Recipe, trusted: bool) -> bool:
    """Whether the recipe's plugins may run; asks where somebody is there to answer."""
    if trusted or not recipe.plugins or not sys.stdin.isatty():
        return trusted
    listed = "\n  ".join(recipe.plugins)
    return typer.confirm(
        f"Recipe {recipe.name} wants to run this code on your machine:\n  {listed}\nRun it?"
    )


def _open_run(run: Path, trusted: bool) -> Run:
    from resnet_tasks.recipe.load import load_recipe

    # Looked at before torch is imported, so that a mistyped folder is refused at once.
    if not (run / "recipe.yaml").is_file():
        raise RunError(
            f"{run} is not a run folder: it has no recipe.yaml; runs are made by `resnet-tasks "
            "finetune`"
        )
    trusted = _agreed(load_recipe(run / "recipe.yaml"), trusted)

    from resnet_tasks.training.run import Run

    return Run.open(run, trust_plugins=trusted)


def _draw_cells(ref: str, recipe: Recipe, data_root: Path | None) -> None:
    """Draws the quickstart's data where it is absent; no other recipe can make its own."""
    from resnet_tasks.recipe.places import data_base
    from resnet_tasks.recipe.shelf import find_recipe

    folder = data_base(data_root) / "cells"
    shipped = find_recipe(ref).resolve() == find_recipe("quickstart").resolve()
    if not shipped or recipe.data.root != "cells" or folder.exists():
        return

    from data_tools.catalogue import prepare as run

    typer.echo(f"{folder} does not exist; drawing the synthetic cells")
    with _bar("Drawing cells") as advance:
        card = run("cells", None, folder, progress=advance)
    _say_card(card, folder)


def _options(format_name: str, texts: list[str]) -> dict[str, Any]:
    """`key=value` options of a converter, typed by YAML and checked against its signature."""
    from typing import get_type_hints

    from pydantic import TypeAdapter, ValidationError

    from data_tools.catalogue import FORMATS
    from resnet_tasks.recipe.yaml_text import parse_yaml

    hints = get_type_hints(FORMATS[format_name].convert) if format_name in FORMATS else {}
    typed: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise DataError(f"option {text!r} is not of the form key=value, for example void=11")
        typed[key] = parse_yaml(value, f"option {text!r}").value
        if key in hints:
            try:
                typed[key] = TypeAdapter(hints[key]).validate_python(typed[key])
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise DataError(f"option {text!r} of {format_name}: {reason}") from None
    return typed


@contextmanager
def _bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; gives the function to call with (done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _say_card(card: DataCard, folder: Path) -> None:
    for split in card.splits:
        objects = ", ".join(f"{name} {count}" for name, count in split.objects.items())
        typer.echo(f"{split.split}: {split.images} pictures; objects: {objects or 'none'}")
    if card.num_skipped:
        typer.echo(f"left out: {card.num_skipped} objects, listed in the data card")
    typer.echo(f"written to {folder}; data card: {folder / 'data_card.md'}")


def _say_report(report: CheckReport) -> None:
    seen: dict[str, int] = {}
    for problem in report.problems:
        seen[problem.kind] = seen.get(problem.kind, 0) + 1
        if seen[problem.kind] <= SHOWN_PROBLEMS:
            typer.echo(f"{problem.severity}: {problem.kind}: {problem.message}")
    for kind, count in seen.items():
        if count > SHOWN_PROBLEMS:
            typer.echo(f"{kind}: {count - SHOWN_PROBLEMS} more of this kind")
    if report.coco is not None:
        typer.echo(
            f"{report.path}: {len(report.coco.images)} pictures, "
            f"{', '.join(report.coco.categories.names)}; {len(report.problems)} problems"
        )
