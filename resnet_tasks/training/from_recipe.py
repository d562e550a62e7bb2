"""From a recipe to an evaluated run: data, labels, model, training, judgement."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from resnet_tasks.assemble.check import check_recipe
from resnet_tasks.assemble.datasets import build_dataset, training_samples
from resnet_tasks.assemble.labels import Labels, label_heads
from resnet_tasks.assemble.measured import weights_to_measure, with_class_weights, with_constants
from resnet_tasks.assemble.model import build_model, normalise
from resnet_tasks.assemble.splits import Split, merged_categories, read_split, with_digest
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.tiled import TiledDataset
from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.evaluation.evaluators import best_metric
from resnet_tasks.in_use import hold
from resnet_tasks.model import TaskModel, default_device, resolve_precision
from resnet_tasks.recipe.schema import (
    NormalizeRecipe,
    Recipe,
)
from resnet_tasks.training.annotation_fit import require_annotations
from resnet_tasks.training.balancing import BALANCINGS
from resnet_tasks.training.dry_run import dry_run_table
from resnet_tasks.training.extending import Base
from resnet_tasks.training.finetune import Finetuning, weights_report
from resnet_tasks.training.judging import metric_tables
from resnet_tasks.training.label_fit import require_fitting_labels
from resnet_tasks.training.processes import Processes
from resnet_tasks.training.rehearsal import Rehearsal
from resnet_tasks.training.run import Run
from resnet_tasks.training.split_leaks import require_no_leaks
from resnet_tasks.training.trackers import require_trackers

SPLITS: tuple[Split, ...] = ("train", "val")
SHOWN_NAMES = 4
"""Unexpected tensors that are named on the console; `log.jsonl` names all."""


def finetune_recipe(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    dry_run: bool = False,
    data_root: Path | None = None,
    console: Console | None = None,
) -> Run | None:
    """Fine-tunes, evaluates the last checkpoint, and leaves a run folder.

    Started by `torchrun` or `accelerate launch`, all processes train together; the first one
    writes, talks, and evaluates at the end.

    Args:
        recipe: What to run; with `resume` that of the run.
        out: The run folder; default `runs/<recipe>-<time>`.
        resume: A run folder to go on with.
        dry_run: Build everything, take two steps, tell what they cost, write nothing.
        data_root: Folder that holds data sets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: For progress and the final table; default: standard output.

    Returns:
        The run; None after a dry run.

    Raises:
        ResnetTasksError: If recipe, data or weights are wrong.
        Stopped: After Ctrl-C or SIGTERM, when the checkpoint is written.
    """
    together = Processes.start(default_device(recipe.training.device))
    started = time.monotonic()
    with ExitStack() as held:
        with ExitStack() as team:
            team.callback(together.leave)
            run = _finetune_together(
                recipe,
                together,
                held,
                out=out,
                resume=resume,
                dry_run=dry_run,
                data_root=data_root,
                console=together.heard(console or Console()),
            )
        if run is not None and together.is_main:
            _judge(run, data_root, console or Console(), (time.monotonic() - started) / 60)
    return run


def _finetune_together(
    recipe: Recipe,
    together: Processes,
    held: ExitStack,
    *,
    out: Path | None,
    resume: Path | None,
    dry_run: bool,
    data_root: Path | None,
    console: Console,
) -> Run | None:
    """`finetune_recipe` up to the last checkpoint, in every process."""
    recipe = with_digest(recipe, data_root)
    base = Base.of(recipe, resume)
    files = {split: read_split(recipe, split, data_root) for split in SPLITS}
    categories = merged_categories([*files["train"], *files["val"]])
    if base is not None:
        recipe, categories = base.extended(recipe, categories)
    leaks = require_no_leaks(recipe, files["train"], files["val"], data_root)
    labels = label_heads(recipe, categories)
    train = build_dataset(recipe, files["train"], categories, training=True)
    val = build_dataset(recipe, files["val"], categories)
    _say_splits(recipe, train, val, console)
    samples = _samples(recipe, train, console)
    for note in (*leaks, *require_annotations(recipe, labels, train, val)):
        console.print(note, highlight=False, markup=False)
    recipe = _weighted(recipe, labels, train, console, None if dry_run else together)
    torch.manual_seed(recipe.training.seed)  # the first weights of what is not pretrained
    model = build_model(recipe, labels, weights="unloaded" if resume or base else None)
    if base is not None and resume is None:
        base.fill(model, labels)
    say_weights(console, model)
    say_norms(console, model, together.count)
    _require_runnable(recipe, model, train, val)
    if dry_run and recipe.data.normalize == "data":
        console.print("normalize: measured when training starts, not with --dry-run")
    elif recipe.data.normalize == "data":
        measured = recipe
        recipe = together.decide(lambda: _measured(measured, train, console))
        normalise(model, recipe)
    if dry_run:
        sentence = f"{check_recipe(recipe, data_root)}; nothing was written (--dry-run)"
        rehearsal = Rehearsal(
            model, samples, recipe.training, workers=_workers(recipe), processes=together
        )
        console.print(dry_run_table(rehearsal, recipe.name, len(val)))
        console.print(sentence)
        return None
    if resume is not None:
        run = Run.reopen(resume, recipe, labels)
        together.decide(lambda: hold(held, resume))
    else:
        run = _new_run(recipe, labels, together, held, out)
    work = _work(recipe, model, samples, val, run.directory, console, together)
    if resume is not None:
        work.resume()
    work.run()
    return run


def _samples(recipe: Recipe, train: CocoDataset, console: Console) -> CocoDataset | TiledDataset:
    """What is trained on, told on the console where it is not the pictures themselves."""
    samples = training_samples(recipe, train)
    if isinstance(samples, TiledDataset):
        console.print(f"train: {samples.described()}", highlight=False)
    return samples


def _new_run(
    recipe: Recipe, labels: Labels, together: Processes, held: ExitStack, out: Path | None
) -> Run:
    """The folder of a new run, held by the main process."""
    name = f"{recipe.name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = out or Path("runs") / name
    together.decide(lambda: hold(held, folder))
    return together.decide(lambda: Run.create(folder, recipe, labels))


def _say_splits(recipe: Recipe, train: CocoDataset, val: CocoDataset, console: Console) -> None:
    """What there is to learn from and to judge on.

    Raises:
        DataError: If a file is not there.
    """
    if (folds := recipe.data.folds) is not None:
        console.print(
            f"val: held out of data.train, fold {folds.held_out} of 0 to {folds.count - 1}; "
            "data.val is not read",
            highlight=False,
        )
    for split, dataset in (("train", train), ("val", val)):
        say_data(console, split, dataset)
        require_pictures(console, split, dataset)


def _require_runnable(
    recipe: Recipe, model: TaskModel, train: CocoDataset, val: CocoDataset
) -> None:
    """What cannot run is refused before the folder is made.

    Raises:
        ResnetTasksError: If labels, precision, balancing, trackers or metric do not fit.
    """
    require_fitting_labels(model, (train, val))
    resolve_precision(recipe.training.precision, default_device(recipe.training.device))
    best_metric(model.named_heads, recipe.evaluation.best, recipe.evaluation.extra)
    require_trackers(recipe.training.trackers)
    try:
        BALANCINGS.get(recipe.training.balancing)
    except ResnetTasksError as error:
        raise RecipeError(f"training.balancing: {error}") from None


def _work(
    recipe: Recipe,
    model: TaskModel,
    train: CocoDataset | TiledDataset,
    val: CocoDataset,
    out: Path,
    console: Console,
    together: Processes,
) -> Finetuning:
    return Finetuning(
        model,
        train,
        val,
        recipe.training,
        out=out,
        evaluation=recipe.evaluation.model_copy(update={"sliding": recipe.sliding}),
        console=console,
        workers=_workers(recipe),
        processes=together,
    )


def _workers(recipe: Recipe) -> int | None:
    return None if recipe.data.workers == "auto" else recipe.data.workers


def _judge(run: Run, data_root: Path | None, console: Console, minutes: float) -> None:
    """Evaluates the last checkpoint and says where everything is."""
    evaluation = run.evaluate("val", data_root=data_root, console=console)
    title = f"{run.recipe.name}: val, last checkpoint, {minutes:.1f} minutes"
    console.print(metric_tables(evaluation.metrics, title, headline_only=True))
    folder = run.directory / "evaluations" / "val"
    console.print(
        f"metrics:  {folder / 'metrics.json'} (all {len(evaluation.metrics)})\n"
        f"pictures: {folder / 'pictures'}\nrun:      {run.directory}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _weighted(
    recipe: Recipe,
    labels: Labels,
    train: CocoDataset,
    console: Console,
    together: Processes | None,
) -> Recipe:
    """The recipe with numbers for class weights that are named, told on the console.

    Args:
        recipe: Whose other settings stay.
        labels: Classes of its heads.
        train: What is counted.
        console: For progress.
        together: Those that train; one counts for all. None: nothing is counted.
    """
    named = weights_to_measure(recipe)
    if not named:
        return recipe
    if together is None:
        console.print("class_weights: measured when training starts, not with --dry-run")
        return recipe
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Counting classes", total=len(train))
        made = together.decide(
            lambda: with_class_weights(
                recipe, labels, train, lambda done, _: progress.update(task, completed=done)
            )
        )
    for name, way in named.items():
        weights = made.heads[name].options["class_weights"]
        shown = ", ".join(f"{each} {weight:g}" for each, weight in weights.items())
        console.print(f"heads.{name}: class_weights {way}: {shown}", highlight=False, markup=False)
    return made


def _measured(recipe: Recipe, train: CocoDataset, console: Console) -> Recipe:
    """The recipe with the constants of its training data, told on the console."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Measuring channels", total=len(train))
        recipe = with_constants(
            recipe, train, lambda done, _: progress.update(task, completed=done)
        )
    constants = recipe.data.normalize
    assert isinstance(constants, NormalizeRecipe)
    shown = ", ".join(
        f"{name} {' '.join(f'{value:.4f}' for value in getattr(constants, name))}"
        for name in ("mean", "std")
    )
    console.print(f"normalize: {shown}, of {len(train)} training pictures", highlight=False)
    return recipe


def say_data(console: Console, split: str, dataset: CocoDataset) -> None:
    """One line on what a split holds, and one on what was repaired or left out."""
    objects = ", ".join(f"{name} {count}" for name, count in dataset.counts().items())
    console.print(f"{split}: {len(dataset)} pictures; objects: {objects}", highlight=False)
    if dataset.repeats is not None:
        console.print(
            f"{split}: {round(float(dataset.repeats.sum()))} pictures per epoch; one comes up to "
            f"{dataset.repeats.max():.1f} times",
            highlight=False,
        )
    for file in dataset.files:
        if file.note:
            console.print(f"{split}: {file.path.name}: {file.note}", highlight=False, markup=False)
        for kind, count in file.summary().items():
            console.print(f"{split}: {file.path.name}: {kind}: {count}", highlight=False)


def require_pictures(console: Console, split: str, dataset: CocoDataset) -> None:
    """The pictures are there, but for as many as may be left out of training.

    Raises:
        DataError: With the number of missing files and the first of them.
    """
    missing = [path for file in dataset.files for path in file.missing_files()]
    if len(missing) > dataset.most_bad_pictures:
        for file in dataset.files:
            file.require_files()
    if missing:
        console.print(
            f"{split}: {len(missing)} files are not there, the first is {missing[0]}; their "
            "pictures are left out (data.bad_pictures)",
            highlight=False,
            markup=False,
        )


def say_weights(console: Console, model: TaskModel) -> None:
    """Where the weights came from, under which licence, and what was made of them."""
    report = weights_report(model)
    if report is None:
        return
    lines = [
        f"weights: {report.source}; licence: {report.license or 'not stated'}",
        (
            f"weights: {len(report.matched)} tensors matched, {len(report.missing)} missing, "
            f"{len(report.unexpected)} unexpected"
        ),
    ]
    if report.unexpected:
        shown = ", ".join(report.unexpected[:SHOWN_NAMES])
        more = ", ..." if len(report.unexpected) > SHOWN_NAMES else ""
        lines.append(f"weights: not used: {shown}{more}")
    lines += [f"weights: {note}" for note in report.notes]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def say_norms(console: Console, model: TaskModel, processes: int) -> None:
    """That shared statistics of batch norms are not shared with anybody, where that is so."""
    if processes == 1 and getattr(model.backbone, "norm_mode", "") == "sync":
        console.print(
            "norms: backbone.norm is sync, but this is the only process: the same as train",
            highlight=False,
            markup=False,
        )
