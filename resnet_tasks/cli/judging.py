"""`evaluate` and `predict`: what a run is worth, and what it sees in pictures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import Checkpoint, DataRoot, RunFolder, Split, Trust, Which, app, open_run
from resnet_tasks.cli.reporting import report_after
from resnet_tasks.errors import DataError


class Hit(StrEnum):
    """When a detection hits an object."""

    iou = "iou"
    centre = "centre"


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
    paired: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_B",
            help="Another run: the differences on the same pictures, and whether they could be "
            "chance",
        ),
    ] = None,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Judge a run, with 95 % intervals; writes RUN/evaluations/<split>."""
    if images is not None and annotations is None:
        raise DataError("--images names the pictures of --annotations FILE; give that too")

    from rich.console import Console

    from resnet_tasks.training.judging import metric_table
    from resnet_tasks.training.pairing import Judged, check_pair, compare_runs, paired_table

    opened = open_run(run, trust_plugins)
    question = Judged(split.value, annotations, images, checkpoint.value, data_root)
    other = None if paired is None else open_run(paired, trust_plugins)
    if other is not None:
        check_pair(opened, other, question)
    evaluation = opened.evaluate(
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
    console = Console()
    console.print(
        metric_table(evaluation.metrics, f"{run}: {judged}, {checkpoint.value} checkpoint")
    )
    for note in evaluation.resampling.notes if evaluation.resampling else ():
        console.print(f"note: {note}", markup=False, highlight=False)
    if other is not None:
        found, file = compare_runs(opened, other, question, console=Console(stderr=True))
        console.print(paired_table(found, f"{run} against {paired}: {judged}"))
        for name, why in found.not_compared.items():
            console.print(f"not compared: {name}: {why}", markup=False, highlight=False)
        typer.echo(f"differences written to {file}")
    typer.echo(f"written to {folder}")
    report_after(run, folder.name, data_root)


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
    operating_point: Annotated[
        bool,
        typer.Option(
            "--operating-point", help="Keep to the thresholds of RUN/operating_point.json"
        ),
    ] = False,
    checkpoint: Which = Checkpoint.last,
    trust_plugins: Trust = False,
) -> None:
    """Predict pictures: COCO results, label maps and drawings."""
    if operating_point and score is not None:
        raise DataError("--score and --operating-point both set the least score; give one of them")

    opened = open_run(run, trust_plugins)
    thresholds = None
    if operating_point:
        from resnet_tasks.training.operating_points import kept_thresholds

        thresholds = kept_thresholds(opened, checkpoint.value)
    folder = opened.predict_paths(
        images,
        out=out or run / "predictions",
        score=score,
        thresholds=thresholds,
        checkpoint=checkpoint.value,
    )
    typer.echo(f"written to {folder}")


@app.command("operating-point")
def operating_point(
    run: RunFolder,
    rule: Annotated[
        str,
        typer.Option(help="max-f1, sensitivity>=0.9, or false-positives<=1 (per picture)"),
    ] = "max-f1",
    hit: Annotated[
        Hit, typer.Option(help="A detection hits by overlap, or with its centre in the box")
    ] = Hit.iou,
    iou: Annotated[float, typer.Option(min=0.01, max=1, help="Least overlap of a hit")] = 0.5,
    split: Annotated[
        Split, typer.Option(help="Part of the recipe's data to choose on")
    ] = Split.val,
    checkpoint: Which = Checkpoint.last,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Choose the least score of every class by a rule; writes RUN/operating_point.json."""
    from rich.console import Console
    from rich.table import Table

    from resnet_tasks.evaluation.froc import FrocOptions
    from resnet_tasks.evaluation.operating_point import Rule
    from resnet_tasks.training.operating_points import FILE, choose_operating_points

    wanted = Rule.parse(rule)
    heads = choose_operating_points(
        open_run(run, trust_plugins),
        wanted,
        options=FrocOptions(hit=hit.value, iou=iou),
        split=split.value,
        checkpoint=checkpoint.value,
        data_root=data_root,
    )
    columns = ("threshold", "sensitivity", "precision", "F1", "false positives per picture")
    for head, points in heads.items():
        table = Table("class", *columns, "objects", title=f"{head}: {wanted} on {split.value}")
        for name, point in points.items():
            if point is None:
                table.add_row(name, *("-" for _ in columns), "-")
                continue
            numbers = (point.threshold, point.sensitivity, point.precision, point.f1)
            shown = (f"{each:.3f}" for each in (*numbers, point.false_positives))
            table.add_row(name, *shown, str(point.objects))
        Console().print(table)
    typer.echo(f"written to {run / FILE}")
