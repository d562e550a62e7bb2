"""`report` and `compare`: runs as pages to look at and to send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import DataRoot, RunFolder, app, complain
from resnet_tasks.errors import ResnetTasksError

Evaluation = Annotated[
    str | None,
    typer.Option(
        "--evaluation",
        "--split",
        metavar="NAME",
        help="Folder below evaluations, as val, test or val-best; default: the latest",
    ),
]


@app.command()
def report(
    run: RunFolder,
    evaluation: Evaluation = None,
    out: Annotated[Path | None, typer.Option(help="The page; default: RUN/report.html")] = None,
    data_root: DataRoot = None,
) -> None:
    """Draw a run as one page; runs no model and no code of the run."""
    from resnet_tasks.report.page import write_report

    page = write_report(run, evaluation=evaluation, data_root=data_root, out=out)
    typer.echo(f"written to {page} ({page.stat().st_size / 1e6:.1f} MB)")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders")],
    out: Annotated[Path, typer.Option(help="The page")] = Path("comparison.html"),
    evaluation: Evaluation = None,
) -> None:
    """Draw several runs beside each other as one page; differences are to the first."""
    from resnet_tasks.report.page import write_comparison

    page = write_comparison(runs, out, evaluation=evaluation)
    typer.echo(f"written to {page} ({page.stat().st_size / 1e6:.1f} MB)")


def report_after(run: Path, evaluation: str, data_root: Path | None) -> None:
    """The page of a run that was just judged; that it fails never costs the run.

    Args:
        run: The run folder.
        evaluation: Name of the evaluation just made.
        data_root: Folder that holds data sets.
    """
    from rich.console import Console

    from resnet_tasks.report.page import write_report
    from resnet_tasks.training.journal import Journal

    try:
        page = write_report(run, evaluation=evaluation, data_root=data_root)
    except Exception as error:  # noqa: BLE001 - the run is done and stays whole, whatever this is
        text = str(error) if isinstance(error, ResnetTasksError) else f"{error!r}"
        complain(
            f"report.html could not be made ({text}); the run itself is whole, try "
            f"`resnet-tasks report {run}`",
            "note:",
        )
        Journal(run, Console(stderr=True)).log("report_failed", error=text)
    else:
        typer.echo(f"report:   {page}")
