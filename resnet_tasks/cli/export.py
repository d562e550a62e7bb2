"""`export`: model of a run for other inference engines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import (
    CheckpointOption,
    DataRoot,
    RunFolder,
    Trust,
    app,
    open_run,
)
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.errors import DataError


class GraphFormat(StrEnum):
    """File format of the exported graph."""

    onnx = "onnx"
    openvino = "openvino"


@app.command()
def export(
    run: RunFolder,
    form: Annotated[
        GraphFormat, typer.Option("--format", help="Engine of the graph: ONNX Runtime or OpenVINO")
    ] = GraphFormat.onnx,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize the graph, calibrated on training images")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="New folder; default: RUN/exports/FORMAT or FORMAT-int8"
        ),
    ] = None,
    checkpoint: CheckpointOption = "last",
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Image or folder for the comparison; repeat the option for several; default: the "
            "run's val images",
        ),
    ] = None,
    num_images: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of images to compare on")
    ] = 8,
    calibrate_on: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Maximum number of training images that --int8 calibrates on; default: 300",
        ),
    ] = None,
    evaluate_on: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Maximum number of val images that --int8 is evaluated on; default: all",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="DROP",
            min=0,
            max=1,
            help="Allowed absolute drop of the main metric with --int8; default: 0.01",
        ),
    ] = None,
    data_root: DataRoot = None,
    trust_plugins: Trust = False,
) -> None:
    """Export a run's model as a graph that runs without torch, and verify its predictions."""
    if not int8 and any(option is not None for option in (calibrate_on, evaluate_on, max_drop)):
        raise DataError("--calibrate-on, --evaluate-on and --max-drop require --int8; add --int8")
    loaded_run = open_run(run, trust_plugins)

    from resnet_tasks.export.export_run import export_run
    from resnet_tasks.export.export_tables import build_export_tables
    from resnet_tasks.export.model_comparison import ComparisonImages
    from resnet_tasks.export.quantization import Int8Options
    from resnet_tasks.runtime.console import Console

    int8_options = None
    if int8:
        int8_options = Int8Options(
            calibrate_on or 300, evaluate_on, 0.01 if max_drop is None else max_drop
        )
    folder = out or run / "exports" / (form.value + ("-int8" if int8 else ""))
    export_summary = export_run(
        loaded_run,
        folder,
        form=form.value,
        int8=int8_options,
        checkpoint=checkpoint,
        comparison_images=ComparisonImages(tuple(images or ()), num_images),
        data_root=data_root,
    )
    for table in build_export_tables(export_summary):
        Console().print(table)
    echo(f"written to {folder}; use it with: resnet-tasks predict {folder} IMAGES...")
