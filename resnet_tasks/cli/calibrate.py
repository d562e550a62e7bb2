"""`calibrate` and `operating-point`: confidences and score thresholds, fitted on a split."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from resnet_tasks.cli.app import (
    CheckpointOption,
    DataRoot,
    RunFolder,
    Split,
    Trust,
    app,
    open_run,
)
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.errors import shorten_name


class HitRule(StrEnum):
    """Rule that decides whether a detection hits an object."""

    IOU = "iou"
    CENTER = "center"


@app.command()
def calibrate(
    run: RunFolder,
    split: Annotated[
        Split, typer.Option(help="Split to fit on; not the training data")
    ] = Split.val,
    checkpoint: CheckpointOption = "last",
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Calibrate a run's confidences to match its accuracy; writes RUN/calibration.json."""
    loaded_run = open_run(run, trust_plugins)

    from resnet_tasks.runs.calibrate import build_calibration_table
    from resnet_tasks.runs.calibrate import calibrate as fit
    from resnet_tasks.runtime.console import Console

    calibration, reasons = fit(loaded_run, split.value, checkpoint=checkpoint, data_root=data_root)
    console = Console()
    console.print(build_calibration_table(calibration, f"{run}: fitted on {split.value}"))
    for head, reason in reasons.items():
        console.print(f"not calibrated: {head}: {reason}", markup=False, highlight=False)
    echo(f"written to {run / 'calibration.json'}; used by --calibrated")


@app.command("operating-point")
def operating_point(
    run: RunFolder,
    rule: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="max-f1, or with any number: 'sensitivity>=0.9', 'false-positives<=1' (per image)",
        ),
    ] = "max-f1",
    hit: Annotated[
        HitRule,
        typer.Option(
            help="What makes a detection a hit: overlap with the object's box, or a center in it"
        ),
    ] = HitRule.IOU,
    iou: Annotated[
        float, typer.Option(metavar="IOU", min=0.01, max=1, help="Minimum IoU of a hit")
    ] = 0.5,
    split: Annotated[Split, typer.Option(help="Split to choose the thresholds on")] = Split.val,
    checkpoint: CheckpointOption = "last",
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Choose a score threshold for every class by a rule; writes RUN/operating_point.json."""
    from rich.table import Table

    from resnet_tasks.evaluation.protocols.froc import FrocOptions
    from resnet_tasks.evaluation.protocols.operating_point import ThresholdRule
    from resnet_tasks.runs.operating_points import FILE, choose_operating_points, select_extremes
    from resnet_tasks.runtime.console import Console, Text

    parsed_rule = ThresholdRule.parse(rule)
    heads = choose_operating_points(
        open_run(run, trust_plugins),
        parsed_rule,
        options=FrocOptions(hit=hit.value, iou=iou),
        split=split.value,
        checkpoint=checkpoint,
        data_root=data_root,
    )
    # Column names short enough for a terminal of 80 columns.
    columns = ("score ≥", "sensitivity", "precision", "F1", "FP/image")
    for head, points in heads.items():
        title = Text(f"{head}: {parsed_rule} on {split.value}")
        shown_points = select_extremes(points)
        if len(shown_points) < len(points):
            title.append(f"; lowest and highest F1, all {len(points) - 1} classes in {FILE}")
        table = Table("class", *columns, "objects", title=title, title_justify="left")
        for name, point in shown_points.items():
            shown_name = Text(name if shown_points is points else shorten_name(name, 16))
            if point is None:
                table.add_row(shown_name, *("-" for _ in columns), "-")
                continue
            numbers = (point.threshold, point.sensitivity, point.precision, point.f1)
            texts = (f"{value:.3f}" for value in (*numbers, point.false_positives))
            table.add_row(shown_name, *texts, str(point.objects))
        Console().print(table)
    echo(f"written to {run / FILE}")
