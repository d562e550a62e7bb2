"""`evaluate`: metrics of a run, or of results from any tool."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_tasks.cli.app import (
    Calibrated,
    CheckpointOption,
    DataRoot,
    Split,
    TileOverlap,
    Tiles,
    Trust,
    Tta,
    app,
    build_window_options,
    open_run,
    show_progress,
)
from resnet_tasks.cli.assistance.completion import complete_runs
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.cli.explicit_parameters import find_explicit_parameters, format_options
from resnet_tasks.cli.report import write_run_report
from resnet_tasks.errors import DataError, limit_message

if TYPE_CHECKING:
    from resnet_tasks.evaluation.subgroups.divide import ImageDivision
    from resnet_tasks.runs.evaluate_subgroups import RunSubgroups
    from resnet_tasks.runs.paired_comparison import EvaluationRequest
    from resnet_tasks.runs.run import Run
    from resnet_tasks.runtime.console import Console


class ResultsTask(StrEnum):
    """Content and metrics of a results file."""

    box = "box"
    mask = "mask"
    semantic = "semantic"
    surface = "surface"
    froc = "froc"
    kitti = "kitti"


class Backend(StrEnum):
    """Library that computes COCO's tables."""

    hotcoco = "hotcoco"
    pycocotools = "pycocotools"


_RESULTS_PARAMETERS = ("truth", "results", "task", "settings", "backend", "resamples", "out")
_SHARED_PARAMETERS = ("by", "images")
"""Parameters that both a run and results use."""


@app.command()
def evaluate(
    ctx: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Run folder written by finetune; or pass --truth and --results",
            autocompletion=complete_runs,
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="Split of the recipe's data to evaluate on")
    ] = Split.val,
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="COCO JSON to evaluate on instead of a split"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Image folder of --annotations, or of --truth for --by; default: the folder of "
            "that file",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Also evaluate each subgroup of the images: by a key of the image records, such "
            "as scanner or attributes.weather, or by image:size, image:brightness or image:color; "
            "can be repeated",
        ),
    ] = None,
    checkpoint: CheckpointOption = "last",
    paired: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_B",
            help="Second run folder: report the differences on the same images, with intervals "
            "and p-values",
            autocompletion=complete_runs,
        ),
    ] = None,
    calibrated: Calibrated = False,
    tta: Tta = None,
    tiles: Tiles = None,
    overlap: TileOverlap = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="COCO JSON with the ground truth of --results"),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="COCO results JSON of any tool; for --task semantic or surface, a folder of PNG "
            "maps of category ids",
        ),
    ] = None,
    task: Annotated[
        ResultsTask,
        typer.Option(
            help="Content and metrics of --results: COCO's for box and mask; mIoU and Dice "
            "(semantic); HD95 and surface Dice (surface); FROC of boxes (froc); KITTI's AP of "
            "boxes (kitti)"
        ),
    ] = ResultsTask.box,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Option of --task surface, froc or kitti, such as tolerance=1, hit=center or "
            "heights=[25,50]; the keys of evaluation.extra in a recipe; can be repeated",
        ),
    ] = None,
    backend: Annotated[
        Backend, typer.Option(help="Library that evaluates --results; the metrics are the same")
    ] = Backend.hotcoco,
    resamples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Number of half samples for the 95 % intervals of --results; 0: none",
        ),
    ] = 1000,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for metrics.json and details.json of --results; default: none",
        ),
    ] = None,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Evaluate a run (writes RUN/evaluations/SPLIT), or --results of any tool against --truth.

    Example: resnet-tasks evaluate --truth gt.json --results dt.json --task box
    """
    explicit_names = find_explicit_parameters(ctx)
    results_options = [name for name in _RESULTS_PARAMETERS if name in explicit_names]
    run_options = sorted(explicit_names.difference(_RESULTS_PARAMETERS, _SHARED_PARAMETERS))
    if results_options and run_options:
        raise DataError(
            f"{format_options(results_options)} evaluate results of any tool, "
            f"{format_options(run_options)} evaluate a run; give one or the other"
        )
    if truth is not None and results is not None:
        _evaluate_results(
            truth,
            results,
            task.value,
            backend.value,
            settings=settings or [],
            resamples=resamples,
            out=out,
            by=by or (),
            images=images,
        )
        return
    if results_options:
        missing = "--results" if results is None else "--truth"
        raise DataError(
            f"{format_options(results_options)} also needs {missing}: evaluate --truth FILE "
            "--results FILE"
        )
    if run is None:
        raise DataError(
            "nothing to evaluate: give a RUN folder, or --truth FILE and --results FILE of any tool"
        )
    if images is not None and annotations is None:
        raise DataError(
            "--images is the image folder of --annotations FILE; give --annotations too"
        )

    from resnet_tasks.evaluation.metric_tables import build_metric_tables
    from resnet_tasks.evaluation.subgroups.tables import print_subgroup_tables
    from resnet_tasks.runs.inference_options import InferenceOptions
    from resnet_tasks.runs.paired_comparison import EvaluationRequest, check_comparable
    from resnet_tasks.runtime.console import Console

    loaded_run = open_run(run, trust_plugins)
    inference = InferenceOptions(
        calibrated, tta.value if tta else None, build_window_options(tiles, overlap)
    )
    question = EvaluationRequest(split.value, annotations, images, checkpoint, data_root, inference)
    paired_run = None if paired is None else open_run(paired, trust_plugins)
    if paired_run is not None:
        check_comparable(loaded_run, paired_run, question)
    subgroups = _divide_run_images(loaded_run, question, by or ())
    evaluation = loaded_run.evaluate(
        split.value,
        annotations=annotations,
        images=images,
        checkpoint=checkpoint,
        inference=inference,
        data_root=data_root,
    )
    folder = question.get_folder(loaded_run)
    evaluated_on = annotations or split.value
    console = Console()
    console.print(
        build_metric_tables(
            evaluation.metrics,
            f"{run}: {evaluated_on}, {checkpoint} checkpoint{inference.suffix}",
        )
    )
    for note in evaluation.resampling.notes if evaluation.resampling else ():
        console.print(limit_message(f"note: {note}"), markup=False, highlight=False)
    if subgroups is not None:
        print_subgroup_tables(subgroups.evaluate(evaluation, folder), console)
    if paired_run is not None:
        _compare_with(paired_run, loaded_run, question, console)
    echo(f"written to {folder}")
    write_run_report(run, folder.name, data_root)


def _divide_run_images(
    run: Run, question: EvaluationRequest, keys: Sequence[str]
) -> RunSubgroups | None:
    """Divide the images of a run before its evaluation, which a wrong key would waste."""
    from resnet_tasks.runs.evaluate_subgroups import RunSubgroups

    if not keys:
        return None
    dataset = run.load_dataset(
        question.split,
        annotations=question.annotations,
        images=question.images,
        data_root=question.data_root,
    )
    with show_progress("Dividing the images") as advance:
        return RunSubgroups.read(dataset, keys, advance)


def _compare_with(other: Run, run: Run, question: EvaluationRequest, console: Console) -> None:
    """Print and store the differences between a run and another one."""
    from resnet_tasks.runs.paired_comparison import build_paired_table, compare_runs
    from resnet_tasks.runtime.console import Console

    comparison, file = compare_runs(run, other, question, console=Console(stderr=True))
    evaluated_on = question.annotations or question.split
    title = f"{run.directory} against {other.directory}: {evaluated_on}"
    console.print(build_paired_table(comparison, title))
    for name, reason in comparison.not_compared.items():
        console.print(f"not compared: {name}: {reason}", markup=False, highlight=False)
    echo(f"differences written to {file}")


def _evaluate_results(
    truth: Path,
    results: Path,
    task: str,
    backend: str,
    *,
    settings: Sequence[str],
    resamples: int,
    out: Path | None,
    by: Sequence[str],
    images: Path | None,
) -> None:
    """Evaluate results from any tool, without loading a model or torch."""
    from resnet_tasks.evaluation.metric_tables import build_metric_tables
    from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results_file
    from resnet_tasks.evaluation.results_files.report import add_intervals, write_report
    from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
    from resnet_tasks.files.atomic import make_folder
    from resnet_tasks.recipe.overrides import apply_overrides
    from resnet_tasks.runtime.console import Console

    if images is not None and not by:
        raise DataError("--images with --truth is the image folder of --by; add --by KEY")
    options: dict[str, Any] = {}
    _, problems = apply_overrides(options, settings)
    if problems:
        raise DataError("\n".join(problems))
    if out is not None:
        make_folder(out)
    divisions = _divide_truth(truth, by, images) if by else ()
    file_evaluation = evaluate_results_file(
        truth, results, task=task, backend=backend, options=options
    )
    bootstrap = Bootstrap(resamples)
    file_evaluation = add_intervals(file_evaluation, bootstrap)
    console = Console()
    console.print(
        build_metric_tables(
            file_evaluation.metrics,
            f"{results} ({task}, by {file_evaluation.backend})",
            location="with --out DIR" if out is None else "in metrics.json",
        )
    )
    for note in file_evaluation.notes:
        console.print(limit_message(f"note: {note}"), markup=False, highlight=False, soft_wrap=True)
    if divisions:
        from resnet_tasks.evaluation.results_files.subgroups import add_subgroups
        from resnet_tasks.evaluation.subgroups.tables import print_subgroup_tables

        file_evaluation = add_subgroups(file_evaluation, divisions, bootstrap)
        assert file_evaluation.subgroups is not None, "just computed"
        print_subgroup_tables(file_evaluation.subgroups, console)
    if out is not None:
        write_report(file_evaluation, out, truth=truth, results=results, task=task)
        echo(f"written to {out}")


def _divide_truth(truth: Path, by: Sequence[str], images: Path | None) -> tuple[ImageDivision, ...]:
    """Return the subgroup of every image before the evaluation, which a wrong key would waste."""
    from resnet_tasks.evaluation.results_files.subgroups import divide_truth

    with show_progress("Dividing the images") as advance:
        return divide_truth(truth, by, images_root=images, advance=advance)
