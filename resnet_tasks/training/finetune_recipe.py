"""Fine-tuning of a recipe: set-up, training and the final evaluation."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from resnet_tasks.assemble.labels import build_combined_heads
from resnet_tasks.assemble.split_files import find_recipe_data
from resnet_tasks.assemble.training_setup import TrainingSetup
from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.evaluation.metric_tables import build_metric_tables
from resnet_tasks.files.folder_lock import enter_folder_lock
from resnet_tasks.number_formats import format_duration
from resnet_tasks.profiling.dry_run import build_dry_run_table
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import resolve_device, resolve_precision
from resnet_tasks.runtime.processes import DistributedContext
from resnet_tasks.training.data_changes import DataRecord
from resnet_tasks.training.finetune import FineTuner
from resnet_tasks.training.logging.trackers import require_trackers
from resnet_tasks.training.state.balancing import LOSS_BALANCERS
from resnet_tasks.training.validation import EvaluationPlan


def finetune_recipe(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: Run | Path | None = None,
    dry_run: bool = False,
    data_root: Path | None = None,
    console: Console | None = None,
    accept_changed_data: bool = False,
) -> Run | None:
    """Fine-tune the model of a recipe and evaluate its last checkpoint on val.

    Under `torchrun` or `accelerate launch` all processes train together; the main process writes,
    prints, and evaluates at the end.

    Args:
        recipe: Recipe to run; with `resume` the recipe of that run.
        out: Path of the run folder; default `runs/<recipe>-<time>`.
        resume: Run to resume, or the path of its folder; None: a new run.
        dry_run: Whether to build everything, take two steps and print their cost, without writing
            anything.
        data_root: Folder of the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: Console for progress and the final table; default: standard output.
        accept_changed_data: Whether to resume although annotations or images have changed, which
            the run records.

    Returns:
        The run; None after a dry run.

    Raises:
        ResnetTasksError: If the recipe, the data or the weights are invalid.
        TrainingStopped: After Ctrl-C or SIGTERM, once the checkpoint is written.
    """
    require_supported(recipe.training)
    processes = DistributedContext.start(resolve_device(recipe.training.device))
    started = time.monotonic()
    # The lock outlives the process group: the main process evaluates after the others have left.
    with ExitStack() as lock_stack:
        with ExitStack() as process_stack:
            process_stack.callback(processes.leave)
            run = _finetune_in_all_processes(
                recipe,
                processes,
                lock_stack,
                out=out,
                resume=Run.read(resume) if isinstance(resume, Path) else resume,
                dry_run=dry_run,
                data_root=data_root,
                console=processes.select_console(console or Console()),
                accept_changed_data=accept_changed_data,
            )
        if run is not None and processes.is_main:
            _evaluate_run(run, data_root, console or Console(), time.monotonic() - started)
    return run


def _finetune_in_all_processes(
    recipe: Recipe,
    processes: DistributedContext,
    lock_stack: ExitStack,
    *,
    out: Path | None,
    resume: Run | None,
    dry_run: bool,
    data_root: Path | None,
    console: Console,
    accept_changed_data: bool,
) -> Run | None:
    """Run `finetune_recipe` up to the last checkpoint, in every process."""
    setup = TrainingSetup.from_recipe(
        recipe,
        purpose="trial" if dry_run else "train",
        data_root=data_root,
        resume=resume,
        processes=processes,
        console=console,
    )
    recipe = setup.recipe
    if dry_run:
        _print_cost(setup, processes, console)
        return None
    if resume is None:
        name = f"{recipe.name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = out or Path("runs") / name
        processes.run_on_main(lambda: enter_folder_lock(lock_stack, folder))
        run = processes.run_on_main(lambda: Run.create(folder, recipe, setup.labels))
    else:
        resume.require_unchanged(recipe, setup.labels)
        run = Run(resume.directory, recipe, setup.labels)  # `resume` may hold a model from before
        processes.run_on_main(lambda: enter_folder_lock(lock_stack, run.directory))
    data_record = DataRecord(
        run.directory, setup.list_files(), find_recipe_data(recipe, data_root), console
    )
    if resume is not None:
        processes.run_on_main(lambda: data_record.require_same(accept_changes=accept_changed_data))
    fine_tuner = FineTuner(
        setup.model,
        setup.samples,
        setup.val,
        recipe.training,
        out=run.directory,
        evaluation=EvaluationPlan(
            recipe.evaluation, build_combined_heads(recipe, setup.labels), recipe.sliding
        ),
        console=console,
        workers=recipe.data.num_workers,
        processes=processes,
    )
    if resume is not None:
        fine_tuner.resume()
    # Only now: accepted changes are not recorded if the run cannot be resumed with them.
    processes.run_on_main(data_record.write)
    fine_tuner.run()
    return run


def require_supported(options: TrainingRecipe) -> None:
    """Reject training options that this machine or installation does not support.

    Raises:
        ResnetTasksError: If device, precision, a tracker or the loss balancing is not available.
    """
    resolve_precision(options.precision, resolve_device(options.device))
    require_trackers(options.trackers)
    try:
        LOSS_BALANCERS.get(options.balancing)
    except ResnetTasksError as error:
        raise RecipeError(f"training.balancing: {error}") from None


def _print_cost(setup: TrainingSetup, processes: DistributedContext, console: Console) -> None:
    """Take two steps; print their cost and a summary of the recipe."""
    recipe = setup.recipe
    trial = TrialTraining(
        setup.model,
        setup.samples,
        recipe.training,
        workers=recipe.data.num_workers,
        processes=processes,
    )
    console.print(build_dry_run_table(trial, recipe.name, len(setup.val)))
    console.print(f"{setup.describe()}; nothing was written (--dry-run)")


def _evaluate_run(run: Run, data_root: Path | None, console: Console, seconds: float) -> None:
    """Evaluate the last checkpoint on val; print the main metrics and the paths of the results.

    Args:
        run: Run to evaluate.
        data_root: Folder of the datasets; None: the default folder.
        console: Console to print to.
        seconds: Duration of the training, in seconds.
    """
    evaluation = run.evaluate("val", data_root=data_root, console=console)
    title = f"{run.recipe.name}: val, last checkpoint, {format_duration(seconds)}"
    console.print(build_metric_tables(evaluation.metrics, title, headline_only=True))
    folder = run.directory / "evaluations" / "val"
    console.print(
        f"metrics:  {folder / 'metrics.json'} (all {len(evaluation.metrics)})\n"
        f"images:   {folder / 'images'}\nrun:      {run.directory}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
