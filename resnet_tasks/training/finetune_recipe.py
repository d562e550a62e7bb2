"""Fine-tuning of a recipe: data, labels, model, training and the final evaluation."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from resnet_tasks.assemble.check_recipe import check_recipe, require_best_metric
from resnet_tasks.assemble.datasets import build_dataset, build_training_samples
from resnet_tasks.assemble.labels import (
    Labels,
    build_combined_heads,
    build_labels,
)
from resnet_tasks.assemble.measured_settings import (
    fill_in_class_weights,
    fill_in_constants,
    find_measured_weights,
)
from resnet_tasks.assemble.model import apply_normalization, build_model
from resnet_tasks.assemble.split_files import Split, add_fold_digest, merge_categories, read_split
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset
from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.evaluation.metric_tables import build_metric_tables
from resnet_tasks.files.folder_lock import enter_folder_lock
from resnet_tasks.model import TaskModel
from resnet_tasks.profiling.dry_run import build_dry_run_table
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.data import NormalizeRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.leak_check import require_no_leaks
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.devices import resolve_device, resolve_precision
from resnet_tasks.runtime.processes import DistributedContext
from resnet_tasks.training.extend_run import BaseRun
from resnet_tasks.training.finetune import FineTuner, get_weights_report
from resnet_tasks.training.guards.annotation_coverage import require_annotations
from resnet_tasks.training.guards.label_coverage import require_valid_labels
from resnet_tasks.training.logging.trackers import require_trackers
from resnet_tasks.training.state.balancing import LOSS_BALANCERS
from resnet_tasks.training.validation import EvaluationPlan

SPLITS: tuple[Split, ...] = ("train", "val")
MAX_PRINTED_NAMES = 4
"""Maximum number of unexpected tensors that the console names; `log.jsonl` names all."""


def finetune_recipe(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    dry_run: bool = False,
    data_root: Path | None = None,
    console: Console | None = None,
) -> Run | None:
    """Fine-tune the model of a recipe and evaluate its last checkpoint on val.

    Under `torchrun` or `accelerate launch` all processes train together; the main process writes,
    prints, and evaluates at the end.

    Args:
        recipe: Recipe to run; with `resume` the recipe of that run.
        out: Path of the run folder; default `runs/<recipe>-<time>`.
        resume: Path of a run folder to resume; None: a new run.
        dry_run: Whether to build everything, take two steps and print their cost, without writing
            anything.
        data_root: Folder of the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: Console for progress and the final table; default: standard output.

    Returns:
        The run; None after a dry run.

    Raises:
        ResnetTasksError: If the recipe, the data or the weights are invalid.
        TrainingStopped: After Ctrl-C or SIGTERM, once the checkpoint is written.
    """
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
                resume=resume,
                dry_run=dry_run,
                data_root=data_root,
                console=processes.select_console(console or Console()),
            )
        if run is not None and processes.is_main:
            _evaluate_run(run, data_root, console or Console(), (time.monotonic() - started) / 60)
    return run


def _finetune_in_all_processes(
    recipe: Recipe,
    processes: DistributedContext,
    lock_stack: ExitStack,
    *,
    out: Path | None,
    resume: Path | None,
    dry_run: bool,
    data_root: Path | None,
    console: Console,
) -> Run | None:
    """Run `finetune_recipe` up to the last checkpoint, in every process."""
    recipe = add_fold_digest(recipe, data_root)
    base = BaseRun.from_recipe(recipe, resume)
    files = {split: read_split(recipe, split, data_root) for split in SPLITS}
    categories = merge_categories([*files["train"], *files["val"]])
    if base is not None:
        recipe, categories = base.extend_recipe(recipe, categories)
    leaks = require_no_leaks(recipe, files["train"], files["val"], data_root)
    labels = build_labels(recipe, categories)
    train = build_dataset(recipe, files["train"], categories, training=True)
    val = build_dataset(recipe, files["val"], categories)
    _report_splits(recipe, train, val, console)
    samples = _build_samples(recipe, train, console)
    for note in (*leaks, *require_annotations(recipe, labels, train, val)):
        console.print(note, highlight=False, markup=False)
    recipe = _measure_class_weights(recipe, labels, train, console, None if dry_run else processes)
    torch.manual_seed(recipe.training.seed)  # initial weights of the parts without pretraining
    model = build_model(recipe, labels, weights="unloaded" if resume or base else None)
    if base is not None and resume is None:
        base.load_weights_into(model, labels)
    report_weights(console, model)
    report_norms(console, model, processes.count)
    _require_runnable(recipe, labels, model, train, val)
    if dry_run and recipe.data.normalize == "data":
        console.print("normalize: measured when training starts, not with --dry-run")
    elif recipe.data.normalize == "data":
        measured = recipe
        recipe = processes.run_on_main(lambda: _measure_constants(measured, train, console))
        apply_normalization(model, recipe)
    if dry_run:
        sentence = f"{check_recipe(recipe, data_root)}; nothing was written (--dry-run)"
        trial = TrialTraining(
            model, samples, recipe.training, workers=recipe.data.num_workers, processes=processes
        )
        console.print(build_dry_run_table(trial, recipe.name, len(val)))
        console.print(sentence)
        return None
    if resume is not None:
        run = Run.reopen(resume, recipe, labels)
        processes.run_on_main(lambda: enter_folder_lock(lock_stack, resume))
    else:
        run = _create_run(recipe, labels, processes, lock_stack, out)
    data = (samples, val)
    fine_tuner = _build_fine_tuner(recipe, labels, model, data, run.directory, console, processes)
    if resume is not None:
        fine_tuner.resume()
    fine_tuner.run()
    return run


def _build_samples(
    recipe: Recipe, train: CocoDataset, console: Console
) -> CocoDataset | TiledDataset:
    """Return the training samples; print a description if they are tiles of the images."""
    samples = build_training_samples(recipe, train)
    if isinstance(samples, TiledDataset):
        console.print(f"train: {samples.describe()}", highlight=False)
    return samples


def _create_run(
    recipe: Recipe,
    labels: Labels,
    processes: DistributedContext,
    lock_stack: ExitStack,
    out: Path | None,
) -> Run:
    """Create the folder of a new run, locked by the main process."""
    name = f"{recipe.name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = out or Path("runs") / name
    processes.run_on_main(lambda: enter_folder_lock(lock_stack, folder))
    return processes.run_on_main(lambda: Run.create(folder, recipe, labels))


def _report_splits(recipe: Recipe, train: CocoDataset, val: CocoDataset, console: Console) -> None:
    """Print a summary of the train and val split, and require their image files.

    Raises:
        DataError: If a file is missing.
    """
    if (folds := recipe.data.folds) is not None:
        console.print(
            f"val: held out of data.train, fold {folds.held_out} of 0 to {folds.count - 1}; "
            "data.val is not read",
            highlight=False,
        )
    for split, dataset in (("train", train), ("val", val)):
        report_dataset(console, split, dataset)
        require_images(console, split, dataset)


def _require_runnable(
    recipe: Recipe, labels: Labels, model: TaskModel, train: CocoDataset, val: CocoDataset
) -> None:
    """Reject a recipe that cannot run, before the run folder is created.

    Raises:
        ResnetTasksError: If labels, precision, trackers, the best metric or the loss balancing are
            invalid.
    """
    require_valid_labels(model, (train, val))
    resolve_precision(recipe.training.precision, resolve_device(recipe.training.device))
    require_best_metric(recipe, labels, model)
    require_trackers(recipe.training.trackers)
    try:
        LOSS_BALANCERS.get(recipe.training.balancing)
    except ResnetTasksError as error:
        raise RecipeError(f"training.balancing: {error}") from None


def _build_fine_tuner(
    recipe: Recipe,
    labels: Labels,
    model: TaskModel,
    data: tuple[CocoDataset | TiledDataset, CocoDataset],
    out: Path,
    console: Console,
    processes: DistributedContext,
) -> FineTuner:
    evaluation = recipe.evaluation.model_copy(update={"sliding": recipe.sliding})
    return FineTuner(
        model,
        *data,
        recipe.training,
        out=out,
        evaluation=EvaluationPlan(evaluation, build_combined_heads(recipe, labels)),
        console=console,
        workers=recipe.data.num_workers,
        processes=processes,
    )


def _evaluate_run(run: Run, data_root: Path | None, console: Console, minutes: float) -> None:
    """Evaluate the last checkpoint on val; print the main metrics and the paths of the results.

    Args:
        run: Run to evaluate.
        data_root: Folder of the datasets; None: the default folder.
        console: Console to print to.
        minutes: Duration of the training, in minutes.
    """
    evaluation = run.evaluate("val", data_root=data_root, console=console)
    title = f"{run.recipe.name}: val, last checkpoint, {minutes:.1f} minutes"
    console.print(build_metric_tables(evaluation.metrics, title, headline_only=True))
    folder = run.directory / "evaluations" / "val"
    console.print(
        f"metrics:  {folder / 'metrics.json'} (all {len(evaluation.metrics)})\n"
        f"images:   {folder / 'images'}\nrun:      {run.directory}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _measure_class_weights(
    recipe: Recipe,
    labels: Labels,
    train: CocoDataset,
    console: Console,
    processes: DistributedContext | None,
) -> Recipe:
    """Replace named methods of class weights by weights measured on the training data.

    Args:
        recipe: Recipe whose heads may name a method under `class_weights`.
        labels: Classes of the heads.
        train: Training data whose classes are counted.
        console: Console for progress and the measured weights.
        processes: Process group; the main process counts for all. None: nothing is counted.

    Returns:
        The recipe with numbers as class weights.
    """
    methods = find_measured_weights(recipe)
    if not methods:
        return recipe
    if processes is None:
        console.print("class_weights: measured when training starts, not with --dry-run")
        return recipe
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Counting classes", total=len(train))
        weighted_recipe = processes.run_on_main(
            lambda: fill_in_class_weights(
                recipe,
                labels,
                train,
                lambda completed, _: progress.update(task, completed=completed),
            )
        )
    for name, method in methods.items():
        weights = weighted_recipe.heads[name].options["class_weights"]
        text = ", ".join(f"{class_name} {weight:g}" for class_name, weight in weights.items())
        console.print(
            f"heads.{name}: class_weights {method}: {text}", highlight=False, markup=False
        )
    return weighted_recipe


def _measure_constants(recipe: Recipe, train: CocoDataset, console: Console) -> Recipe:
    """Replace `data.normalize: data` by mean and std measured on the training data; print them."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Measuring channels", total=len(train))
        recipe = fill_in_constants(
            recipe, train, lambda completed, _: progress.update(task, completed=completed)
        )
    constants = recipe.data.normalize
    assert isinstance(constants, NormalizeRecipe)
    text = ", ".join(
        f"{name} {' '.join(f'{value:.4f}' for value in getattr(constants, name))}"
        for name in ("mean", "std")
    )
    console.print(f"normalize: {text}, from {len(train)} training images", highlight=False)
    return recipe


def report_dataset(console: Console, split: str, dataset: CocoDataset) -> None:
    """Print a summary of a split, and a line per kind of repaired or ignored annotations."""
    objects = ", ".join(f"{name} {count}" for name, count in dataset.count_objects().items())
    console.print(f"{split}: {len(dataset)} images; objects: {objects}", highlight=False)
    repeats = dataset.epoch_sampler.repeats
    if repeats is not None:
        console.print(
            f"{split}: {round(float(repeats.sum()))} images per epoch; an image is "
            f"repeated up to {repeats.max():.1f} times",
            highlight=False,
        )
    for file in dataset.files:
        if file.note:
            console.print(f"{split}: {file.path.name}: {file.note}", highlight=False, markup=False)
        for kind, count in file.count_problems().items():
            console.print(f"{split}: {file.path.name}: {kind}: {count}", highlight=False)


def require_images(console: Console, split: str, dataset: CocoDataset) -> None:
    """Check that images exist and label maps are lossless, up to the allowed number of exceptions.

    Raises:
        DataError: If more files are missing or lossy than allowed; the message has their number and
            the first path.
    """
    if "semantic" in dataset.fields:
        for file in dataset.files:
            file.require_lossless_maps(dataset.max_unreadable_images)
    missing = [path for file in dataset.files for path in file.find_missing_files()]
    if len(missing) > dataset.max_unreadable_images:
        for file in dataset.files:
            file.require_files()
    if missing:
        console.print(
            f"{split}: {len(missing)} image files do not exist, the first is {missing[0]}; their "
            "images are skipped (data.unreadable_images)",
            highlight=False,
            markup=False,
        )


def report_weights(console: Console, model: TaskModel) -> None:
    """Print source, license and matched tensors of the weights that a model was built with."""
    report = get_weights_report(model)
    if report is None:
        return
    lines = [
        f"weights: {report.source}; license: {report.license or 'not stated'}",
        (
            f"weights: {len(report.matched)} tensors matched, {len(report.missing)} missing, "
            f"{len(report.unexpected)} unexpected"
        ),
    ]
    if report.unexpected:
        names = ", ".join(report.unexpected[:MAX_PRINTED_NAMES])
        more = ", ..." if len(report.unexpected) > MAX_PRINTED_NAMES else ""
        lines.append(f"weights: not used: {names}{more}")
    lines += [f"weights: {note}" for note in report.notes]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def report_norms(console: Console, model: TaskModel, processes: int) -> None:
    """Print a note if `backbone.norm: sync` has no effect because there is only one process."""
    if processes == 1 and getattr(model.backbone, "norm_mode", "") == "sync":
        console.print(
            "norms: backbone.norm is sync, but with a single process this equals train",
            highlight=False,
            markup=False,
        )
