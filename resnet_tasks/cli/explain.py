"""`explain`: regions of an image that support a prediction."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import CheckpointOption, RunFolder, Trust, app, open_run
from resnet_tasks.cli.assistance.completion import complete_run_heads
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.errors import DataError


class CamMethod(StrEnum):
    """Method that weights channels or cells."""

    gradcam = "gradcam"
    hirescam = "hirescam"


@app.command()
def explain(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Images or folders")],
    head: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Head to explain; default: all heads",
            autocompletion=complete_run_heads,
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="NAME", help="Class to explain; default: the strongest prediction"
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2",
            help="Explain the detection at this box, or the pixels in it; corners in pixels of "
            "the image",
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="Feature level, C1 (fine) to C5 (coarse); default: the coarsest that the head "
            "uses",
        ),
    ] = None,
    method: Annotated[
        CamMethod | None,
        typer.Option(
            help="Variant of Grad-CAM; default: gradcam for a class of an image, hirescam for a box"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Output folder; default: RUN/explanations"),
    ] = None,
    checkpoint: CheckpointOption = "last",
    trust_plugins: Trust = False,
) -> None:
    """Show which regions of an image support a prediction (Grad-CAM)."""
    corners = None if box is None else _parse_box(box)
    loaded_run = open_run(run, trust_plugins)

    from resnet_tasks.inference.grad_cam import ExplanationQuery
    from resnet_tasks.runs.explain import ExplanationRequest, explain_paths
    from resnet_tasks.runtime.console import Console

    request = ExplanationRequest(
        head,
        level,
        ExplanationQuery(class_name, corners),
        None if method is None else method.value,
        checkpoint,
    )
    folder, empty = explain_paths(
        loaded_run, images, request, out=out or run / "explanations", console=Console(stderr=True)
    )
    for sentence in empty:
        echo(f"not explained: {sentence}")
    echo(f"written to {folder}")


def _parse_box(text: str) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = (float(value) for value in text.split(","))
    except ValueError:
        raise DataError(f"--box {text!r} is not a box; write X1,Y1,X2,Y2 in pixels") from None
    if not (x1 < x2 and y1 < y2):
        raise DataError(f"--box {text!r} has no area; write X1,Y1,X2,Y2 with X1 < X2 and Y1 < Y2")
    return x1, y1, x2, y2
