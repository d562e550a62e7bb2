"""`evaluate`, `calibrate`, `predict`: what a run is worth, and what it sees in images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_tasks.cli.app import (
    Calibrated,
    Checkpoint,
    CheckpointOption,
    DataRoot,
    RunFolder,
    Split,
    TileOverlap,
    Tiles,
    Trust,
    Tta,
    app,
    build_window_options,
    open_run,
)
from resnet_tasks.cli.report import write_run_report
from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions


class HitRule(StrEnum):
    """When a detection hits an object."""

    IOU = "iou"
    CENTER = "center"


class ResultsTask(StrEnum):
    """What a results file holds."""

    box = "box"
    mask = "mask"
    semantic = "semantic"


class Backend(StrEnum):
    """Who makes COCO's tables."""

    hotcoco = "hotcoco"
    pycocotools = "pycocotools"


_EXPORT_PARAMETERS = {"run", "images", "out", "score", "max_pixels"}
_EXPORT_PARAMETERS |= {"listed", "recursive", "overwrite", "draw", "every"}
_RESULTS_PARAMETERS = ("truth", "results", "task", "backend", "resamples", "out")


@app.command()
def evaluate(
    ctx: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Folder made by finetune; or --truth and --results"),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which part of the recipe's data")] = Split.val,
    annotations: Annotated[
        Path | None,
        typer.Option(help="A COCO file to judge on instead"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of that file's images; default: its own folder"),
    ] = None,
    checkpoint: CheckpointOption = Checkpoint.last,
    paired: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_B",
            help="Another run: the differences on the same images, and whether they could be "
            "chance",
        ),
    ] = None,
    calibrated: Calibrated = False,
    tta: Tta = None,
    tiles: Tiles = None,
    overlap: TileOverlap = None,
    truth: Annotated[
        Path | None, typer.Option(help="COCO annotations, to judge --results of any tool")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="COCO results; for semantic a folder of PNGs of category ids"),
    ] = None,
    task: Annotated[ResultsTask, typer.Option(help="What the results are")] = ResultsTask.box,
    backend: Annotated[
        Backend, typer.Option(help="Evaluator of results; the numbers are the same")
    ] = Backend.hotcoco,
    resamples: Annotated[
        int, typer.Option(min=0, help="For the intervals of results; 0: none")
    ] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="Folder for metrics.json and details.json of results")
    ] = None,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Judge a run (writes RUN/evaluations/<split>), or --results of any tool against --truth."""
    given_names = _find_given_parameters(ctx)
    results_options = [name for name in _RESULTS_PARAMETERS if name in given_names]
    run_options = sorted(given_names - set(_RESULTS_PARAMETERS))
    if results_options and run_options:
        raise DataError(
            f"{_format_options(results_options)} judge results of any tool, "
            f"{_format_options(run_options)} a run; give "
            "one or the other"
        )
    if truth is not None and results is not None:
        _evaluate_results(truth, results, task.value, backend.value, resamples=resamples, out=out)
        return
    if results_options:
        missing = "--results" if results is None else "--truth"
        raise DataError(
            f"{_format_options(results_options)} needs {missing} too: evaluate --truth FILE "
            "--results FILE"
        )
    if run is None:
        raise DataError(
            "nothing to judge: give a RUN folder, or --truth FILE and --results FILE of any tool"
        )
    if images is not None and annotations is None:
        raise DataError("--images names the images of --annotations FILE; give that too")

    from rich.console import Console

    from resnet_tasks.evaluation.metric_tables import build_metric_tables
    from resnet_tasks.runs.inference_options import InferenceOptions
    from resnet_tasks.runs.paired_comparison import (
        EvaluationRequest,
        build_paired_table,
        check_comparable,
        compare_runs,
    )

    loaded_run = open_run(run, trust_plugins)
    inference = InferenceOptions(
        calibrated, tta.value if tta else None, build_window_options(tiles, overlap)
    )
    question = EvaluationRequest(
        split.value, annotations, images, checkpoint.value, data_root, inference
    )
    paired_run = None if paired is None else open_run(paired, trust_plugins)
    if paired_run is not None:
        check_comparable(loaded_run, paired_run, question)
    evaluation = loaded_run.evaluate(
        split.value,
        annotations=annotations,
        images=images,
        checkpoint=checkpoint.value,
        inference=inference,
        data_root=data_root,
    )
    folder = question.get_folder(loaded_run)
    evaluated_on = annotations or split.value
    console = Console()
    console.print(
        build_metric_tables(
            evaluation.metrics,
            f"{run}: {evaluated_on}, {checkpoint.value} checkpoint{inference.suffix}",
        )
    )
    for note in evaluation.resampling.notes if evaluation.resampling else ():
        console.print(f"note: {note}", markup=False, highlight=False)
    if paired_run is not None:
        comparison, file = compare_runs(
            loaded_run, paired_run, question, console=Console(stderr=True)
        )
        console.print(build_paired_table(comparison, f"{run} against {paired}: {evaluated_on}"))
        for name, reason in comparison.not_compared.items():
            console.print(f"not compared: {name}: {reason}", markup=False, highlight=False)
        typer.echo(f"differences written to {file}")
    typer.echo(f"written to {folder}")
    write_run_report(run, folder.name, data_root)


def _format_options(names: list[str]) -> str:
    options = ("RUN" if name == "run" else f"--{name.replace('_', '-')}" for name in names)
    return ", ".join(options)


def _evaluate_results(
    truth: Path, results: Path, task: str, backend: str, *, resamples: int, out: Path | None
) -> None:
    """Results of any tool; neither models nor torch are loaded."""
    from rich.console import Console

    from resnet_tasks.evaluation.metric_tables import build_metric_tables
    from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results_file
    from resnet_tasks.evaluation.results_files.report import add_intervals, write_report
    from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
    from resnet_tasks.files.atomic import make_folder

    if out is not None:
        make_folder(out)
    file_evaluation = evaluate_results_file(truth, results, task=task, backend=backend)
    file_evaluation = add_intervals(file_evaluation, Bootstrap(resamples))
    console = Console()
    console.print(
        build_metric_tables(
            file_evaluation.metrics, f"{results} ({task}, by {file_evaluation.backend})"
        )
    )
    for note in file_evaluation.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        write_report(file_evaluation, out, truth=truth, results=results, task=task)
        typer.echo(f"written to {out}")


@app.command()
def calibrate(
    run: RunFolder,
    split: Annotated[
        Split, typer.Option(help="Part of the recipe's data to fit to; not what it learned from")
    ] = Split.val,
    checkpoint: CheckpointOption = Checkpoint.last,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Fit a run's confidences to what comes true; writes RUN/calibration.json."""
    loaded_run = open_run(run, trust_plugins)

    from rich.console import Console

    from resnet_tasks.runs.calibrate import build_calibration_table
    from resnet_tasks.runs.calibrate import calibrate as fit

    calibration, reasons = fit(
        loaded_run, split.value, checkpoint=checkpoint.value, data_root=data_root
    )
    console = Console()
    console.print(build_calibration_table(calibration, f"{run}: fitted to {split.value}"))
    for head, reason in reasons.items():
        console.print(f"not calibrated: {head}: {reason}", markup=False, highlight=False)
    typer.echo(f"written to {run / 'calibration.json'}; used by --calibrated")


@app.command()
def predict(
    ctx: typer.Context,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder made by finetune or by export")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGES]...", help="Images, videos, folders of them, or patterns in quotes"
        ),
    ] = None,
    listed: Annotated[
        Path | None, typer.Option("--list", help="A text file that names more, one on each line")
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Search folders below folders too")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Of videos every n-th frame")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; default: RUN/predictions"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Begin anew where a prediction was stopped on the way"),
    ] = False,
    draw: Annotated[bool, typer.Option(help="Draw predictions over the images")] = True,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out detections that score less"),
    ] = None,
    operating_point: Annotated[
        bool,
        typer.Option(
            "--operating-point", help="Keep to the thresholds of RUN/operating_point.json"
        ),
    ] = False,
    checkpoint: CheckpointOption = Checkpoint.last,
    calibrated: Calibrated = False,
    tta: Tta = None,
    tiles: Tiles = None,
    overlap: TileOverlap = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Refuse larger images; default: as the recipe says")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Predict on a Ray cluster; local: one on this machine"
        ),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Processes on the cluster [one per GPU, or per node]")
    ] = None,
    trust_plugins: Trust = False,
) -> None:
    """Predict images and videos: COCO results, label maps and drawings; goes on where stopped."""
    if not images and listed is None:
        raise DataError("nothing to predict: name images, videos or folders, or give --list FILE")
    if actors is not None and ray is None:
        raise DataError("--actors are those of a cluster; give --ray ADDRESS (or --ray local) too")
    if operating_point and score is not None:
        raise DataError("--score and --operating-point both set the least score; give one of them")
    if operating_point and (calibrated or tta):
        raise DataError(
            "--operating-point was chosen on plain scores, which --calibrated and --tta change; "
            "leave them out, or give a --score"
        )
    loaded_run = None if (run / "export.json").is_file() else open_run(run, trust_plugins)

    from resnet_tasks.inference.streaming.stream import (
        PredictionRequest,
        StreamOptions,
        predict_all,
    )

    folder = out or run / "predictions"
    request = PredictionRequest(tuple(images or ()), recursive, listed, overwrite)
    if loaded_run is None:
        options = StreamOptions(score, draw=draw, every=every)
        _predict_exported(ctx, run, request, folder, options=options, max_pixels=max_pixels)
        return

    from resnet_tasks.runs.inference_options import InferenceOptions

    thresholds = None
    if operating_point:
        from resnet_tasks.runs.operating_points import load_thresholds

        thresholds = load_thresholds(loaded_run, checkpoint.value)
    inference = InferenceOptions(
        calibrated, tta.value if tta else None, build_window_options(tiles, overlap)
    )
    inference_settings = (checkpoint.value, inference, max_pixels)
    options = StreamOptions(score, thresholds, draw=draw, every=every)
    runner = None
    if ray is not None:
        from resnet_tasks.inference.streaming.cluster import RayCluster
        from resnet_tasks.runs.run_predictor import RunPredictorFactory

        predictor = RunPredictorFactory(
            run.absolute(), *inference_settings, trust_plugins=trust_plugins
        )
        runner = RayCluster(ray, actors).create_runner(predictor, folder, options)
    predict_all(
        loaded_run.build_stream_predictor(*inference_settings),
        request,
        folder,
        settings=loaded_run.get_stream_settings(*inference_settings),
        options=options,
        runner=runner,
    )
    typer.echo(f"written to {folder}")


def _predict_exported(
    ctx: typer.Context,
    export: Path,
    request: PredictionRequest,
    out: Path,
    *,
    options: StreamOptions,
    max_pixels: int | None,
) -> None:
    """Predicts with an exported model; torch is not loaded.

    Raises:
        DataError: If options are given that need the run.
    """
    unsupported = sorted(_find_given_parameters(ctx) - _EXPORT_PARAMETERS)
    if unsupported:
        raise DataError(
            f"{export} is an exported model, which {_format_options(unsupported)} cannot change; "
            "name the run "
            "folder instead"
        )
    from resnet_tasks.exported.exported_model import ExportedModel
    from resnet_tasks.inference.streaming.stream import predict_all

    predictor = ExportedModel.open(export).to_stream_predictor(max_pixels)
    predict_all(predictor, request, out, settings=predictor.settings, options=options)
    typer.echo(f"written to {out}")


def _find_given_parameters(ctx: typer.Context) -> set[str]:
    """Names of the parameters that the command line gives."""
    return {
        name
        for name in ctx.params
        if (source := ctx.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }


@app.command("operating-point")
def operating_point(
    run: RunFolder,
    rule: Annotated[
        str,
        typer.Option(help="max-f1, sensitivity>=0.9, or false-positives<=1 (per image)"),
    ] = "max-f1",
    hit: Annotated[
        HitRule, typer.Option(help="A detection hits by overlap, or with its center in the box")
    ] = HitRule.IOU,
    iou: Annotated[float, typer.Option(min=0.01, max=1, help="Least overlap of a hit")] = 0.5,
    split: Annotated[
        Split, typer.Option(help="Part of the recipe's data to choose on")
    ] = Split.val,
    checkpoint: CheckpointOption = Checkpoint.last,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Choose the least score of every class by a rule; writes RUN/operating_point.json."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from resnet_tasks.evaluation.protocols.froc import FrocOptions
    from resnet_tasks.evaluation.protocols.operating_point import ThresholdRule
    from resnet_tasks.runs.operating_points import FILE, choose_operating_points

    parsed_rule = ThresholdRule.parse(rule)
    heads = choose_operating_points(
        open_run(run, trust_plugins),
        parsed_rule,
        options=FrocOptions(hit=hit.value, iou=iou),
        split=split.value,
        checkpoint=checkpoint.value,
        data_root=data_root,
    )
    # Short enough for 80 columns.
    columns = ("score ≥", "sensitivity", "precision", "F1", "FP/image")
    for head, points in heads.items():
        title = Text(f"{head}: {parsed_rule} on {split.value}")
        table = Table("class", *columns, "objects", title=title, title_justify="left")
        for name, point in points.items():
            if point is None:
                table.add_row(Text(name), *("-" for _ in columns), "-")
                continue
            numbers = (point.threshold, point.sensitivity, point.precision, point.f1)
            texts = (f"{value:.3f}" for value in (*numbers, point.false_positives))
            table.add_row(Text(name), *texts, str(point.objects))
        Console().print(table)
    typer.echo(f"written to {run / FILE}")
