"""`finetune`, `lr-find`, `benchmark` and `replay`: training a recipe and measuring its steps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_tasks.cli.app import (
    STOPPED,
    DataRoot,
    Overrides,
    Trust,
    app,
    get_process_rank,
    open_run,
    print_message,
    read_run,
    run_plugins,
    show_progress,
)
from resnet_tasks.cli.assistance.completion import (
    complete_recipes,
    complete_replays,
    complete_runs,
)
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.cli.data_card import print_card
from resnet_tasks.cli.report import write_run_report
from resnet_tasks.errors import DataError, RecipeError, RunError

if TYPE_CHECKING:
    from resnet_tasks.recipe.schema.recipe import Recipe
    from resnet_tasks.runs.run import Run


@app.command()
def replay(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="REPLAY",
            help="Saved step, such as RUN/replays/update-12",
            autocompletion=complete_replays,
        ),
    ],
    trust_plugins: Trust = False,
) -> None:
    """Repeat a step with a non-finite loss or gradient; exit code 1 if it is finite now."""
    from resnet_tasks.runtime.console import Console
    from resnet_tasks.training.guards.replay import print_replay
    from resnet_tasks.training.guards.replay import replay as replay_step

    run = folder if folder.is_dir() else folder.parent
    replayed = replay_step(run, run=open_run(run, trust_plugins))
    print_replay(replayed, Console())
    if not replayed.is_non_finite:
        raise typer.Exit(1)


@app.command()
def finetune(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a shipped recipe, or a YAML file",
            autocompletion=complete_recipes,
        ),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="New run folder; default: runs/RECIPE-TIME"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Run folder of an interrupted run to resume; needs no RECIPE",
            autocompletion=complete_runs,
        ),
    ] = None,
    accept_changed_data: Annotated[
        bool,
        typer.Option(
            "--accept-changed-data",
            help="Resume although annotations or images have changed; the run records it",
        ),
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Train N times with different seeds, in folders below --out, and report mean and "
            "standard deviation",
        ),
    ] = 1,
    folds: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Cross-validate data.train with N folds, in folders below --out",
        ),
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Build everything, run two steps and report their time and memory"
        ),
    ] = False,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Fine-tune the model of a recipe and evaluate it.

    Example: resnet-tasks finetune quickstart training.epochs=3
    """
    run_to_resume = None
    if accept_changed_data and (seeds > 1 or folds > 1):
        option, member = ("--seeds", "seed-N") if seeds > 1 else ("--folds", "fold-N")
        raise RunError(
            f"{option} compares runs on the same data and excludes --accept-changed-data; restore "
            "the original files, or start again with another --out; to accept the changes in one "
            f"run, resume it by `resnet-tasks finetune --resume DIR/{member} "
            "--accept-changed-data`, and then repeat the command without it"
        )
    if accept_changed_data and resume is None:
        raise RunError("--accept-changed-data needs --resume RUN; omit it for a new run")
    if resume is not None:
        run_to_resume = _read_resumed_run(resume, recipe, overrides, out)
        loaded_recipe = run_to_resume.recipe
    elif recipe is None:
        raise RecipeError(
            "finetune needs a recipe: a name from `resnet-tasks recipes list`, or a YAML file"
        )
    else:
        from resnet_tasks.recipe.load import load_recipe

        loaded_recipe = load_recipe(recipe, overrides or ())
    group_folder = (
        _require_group_folder(out, resume, seeds, folds, dry_run=dry_run)
        if seeds > 1 or folds > 1
        else None
    )
    _prepare_process(loaded_recipe, trust_plugins)
    if recipe is not None:
        _prepare_quickstart_data(recipe, loaded_recipe, data_root)

    from resnet_tasks.runtime.console import Console
    from resnet_tasks.runtime.signals import TrainingStopped
    from resnet_tasks.training.experiments.cross_validation import finetune_folds
    from resnet_tasks.training.experiments.seeds import finetune_seeds
    from resnet_tasks.training.finetune_recipe import finetune_recipe

    try:
        if group_folder is not None:
            finetune_group, number = (
                (finetune_seeds, seeds) if seeds > 1 else (finetune_folds, folds)
            )
            finetune_group(
                loaded_recipe, number, out=group_folder, data_root=data_root, console=Console()
            )
            return
        run = finetune_recipe(
            loaded_recipe,
            out=out,
            resume=run_to_resume,
            dry_run=dry_run,
            data_root=data_root,
            console=Console(),
            accept_changed_data=accept_changed_data,
        )
    except TrainingStopped as stopped:
        print_message(str(stopped), "stopped:")
        raise typer.Exit(STOPPED) from None
    if run is not None and not get_process_rank():  # only the first process writes the report
        write_run_report(run.directory, "val", data_root)


@app.command("lr-find")
def lr_find(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a shipped recipe, or a YAML file",
            autocompletion=complete_recipes,
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for lr_find.json and lr_find.png")
    ] = Path("lr_find"),
    first: Annotated[
        float, typer.Option(metavar="RATE", help="Learning rate of the first step")
    ] = 1e-6,
    last: Annotated[
        float, typer.Option(metavar="RATE", help="Learning rate of the last step")
    ] = 1.0,
    steps: Annotated[int, typer.Option(metavar="N", help="Number of steps, one batch each")] = 100,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Sweep the learning rate, plot the loss, and suggest a rate."""
    from resnet_tasks.recipe.load import load_recipe
    from resnet_tasks.training.experiments.lr_finder import check_range, find_learning_rate

    loaded_recipe = load_recipe(recipe, overrides or ())
    check_range(first, last, steps)
    if (out / "recipe.yaml").exists():
        raise RunError(f"{out} is a run folder; name another --out for the sweep")
    _prepare_process(loaded_recipe, trust_plugins)
    _prepare_quickstart_data(recipe, loaded_recipe, data_root)

    rate_search = find_learning_rate(
        loaded_recipe, first=first, last=last, steps=steps, data_root=data_root
    )
    echo(rate_search.describe())
    for path in rate_search.write(out):
        echo(str(path))


@app.command()
def benchmark(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a shipped recipe, or a YAML file",
            autocompletion=complete_recipes,
        ),
    ],
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Number of measured steps")] = 8,
    warm_up: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of steps before the measured ones")
    ] = 3,
    synthetic: Annotated[
        bool,
        typer.Option(
            "--synthetic", help="Generate random images, annotations and weights; no data needed"
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file for all numbers; default: none")
    ] = None,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Profile the time and memory of a training step, and suggest changes."""
    from resnet_tasks.recipe.load import load_recipe

    loaded_recipe = load_recipe(recipe, overrides or ())
    if get_process_rank() is not None:
        raise RunError("benchmark measures a single process; start it without a launcher")
    if out is not None and out.is_dir():
        raise RunError(f"{out} is a folder; give a file for the numbers, such as {out}/step.json")
    _prepare_process(loaded_recipe, trust_plugins)
    if not synthetic:
        _prepare_quickstart_data(recipe, loaded_recipe, data_root)

    from resnet_tasks.files.atomic import write_json
    from resnet_tasks.profiling.step_advice import suggest_changes
    from resnet_tasks.profiling.step_profile import profile_recipe
    from resnet_tasks.profiling.step_report import print_profile
    from resnet_tasks.runtime.console import Console

    profile = profile_recipe(
        loaded_recipe, steps=steps, warm_up=warm_up, synthetic=synthetic, data_root=data_root
    )
    sentences = suggest_changes(profile, loaded_recipe)
    print_profile(Console(), profile, sentences)
    if out is not None:
        write_json(out, {**profile.to_json(), "advice": sentences})
        echo(f"written to {out}")


def _prepare_process(recipe: Recipe, trusted: bool) -> None:
    """Prepare this process for training and run the code that the recipe names."""
    from resnet_tasks.runtime.malloc import keep_freed_memory

    keep_freed_memory()
    run_plugins(recipe, trusted)


def _require_group_folder(
    out: Path | None, resume: Path | None, seeds: int, folds: int, *, dry_run: bool
) -> Path:
    """Require `--out` for several runs, so that the same command can resume them."""
    option = "--seeds" if seeds > 1 else "--folds"
    if seeds > 1 and folds > 1:
        raise RunError(
            "--seeds and --folds cannot be combined; repeat --folds with "
            "training.seed=... and another --out"
        )
    if out is None or resume is not None or dry_run:
        raise RunError(
            f"{option} needs --out DIR and excludes --resume and --dry-run; to resume, run "
            "the same command again"
        )
    if get_process_rank() is not None:
        raise RunError(f"{option} runs one process after another; start it without a launcher")
    return out


def _read_resumed_run(
    folder: Path, recipe: str | None, overrides: list[str] | None, out: Path | None
) -> Run:
    """Read a run to resume, whose recipe must not be changed; no plugin is executed."""
    changes = [
        argument
        for argument in (recipe, *(overrides or ()))
        if argument is not None and "=" in argument
    ]
    if changes:
        raise RunError(
            f"--resume uses the recipe of {folder} unchanged; omit {' '.join(changes)}, "
            "or start a new run"
        )
    if out is not None:
        raise RunError(f"--resume continues in {folder}; omit --out {out}")

    from resnet_tasks.recipe.load import load_recipe

    run = read_run(folder)
    name = run.recipe.name
    if recipe is not None and (given_name := load_recipe(recipe).name) != name:
        raise RunError(f"{folder} is a run of {name}, not of {given_name}; omit the recipe")
    return run


def _prepare_quickstart_data(ref: str, recipe: Recipe, data_root: Path | None) -> None:
    """Draw the quickstart's synthetic data if it is missing; other recipes need existing data."""
    from resnet_tasks.recipe.data_root import get_data_root
    from resnet_tasks.recipe.shipped_recipes import find_recipe

    folder = get_data_root(data_root) / "cells"
    shipped = find_recipe(ref).resolve() == find_recipe("quickstart").resolve()
    if not shipped or recipe.data.root != "cells" or folder.exists():
        return

    _check_before_cells(recipe)
    if get_process_rank():  # only the first of several processes draws the data
        _wait_for_folder(folder)
        return

    from data_tools.catalog import prepare as run

    echo(f"{folder} does not exist; generating the synthetic cells")
    with show_progress("Generating cells") as advance:
        card = run("cells", None, folder, progress=advance)
    print_card(card, folder, counts=False)  # the training prints the counts of its data


def _check_before_cells(recipe: Recipe) -> None:
    """Refuse an invalid recipe before its data is generated.

    Raises:
        ResnetTasksError: If the recipe cannot be trained on the synthetic cells.
    """
    from data_tools.converters.synthetic import CLASSES
    from resnet_tasks.assemble.training_setup import check_before_data
    from resnet_tasks.data.coco.categories import Category, CategoryMap
    from resnet_tasks.training.finetune_recipe import require_supported

    require_supported(recipe.training)
    if recipe.data.channels not in (1, 3):
        raise RecipeError(
            f"data.channels is {recipe.data.channels}, but the synthetic cells are color images; "
            "set 3, or 1 for gray"
        )
    categories = (Category(index, name) for index, name in enumerate(CLASSES, start=1))
    check_before_data(recipe, CategoryMap(tuple(categories)))


def _wait_for_folder(folder: Path) -> None:
    """Wait until another process has created a folder.

    Raises:
        DataError: If the folder does not exist after ten minutes.
    """
    end = time.monotonic() + 600
    while not folder.exists():
        if time.monotonic() > end:
            raise DataError(
                f"{folder} was not generated within ten minutes; start a single process first"
            )
        time.sleep(0.2)
