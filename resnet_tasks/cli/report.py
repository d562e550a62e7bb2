"""`report` and `compare`: runs as HTML pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_tasks.cli.app import DataRoot, RunFolder, Trust, app, open_run, print_message
from resnet_tasks.cli.assistance.completion import complete_evaluations, complete_runs
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.errors import RecipeError, ResnetTasksError, RunError
from resnet_tasks.number_formats import format_bytes

Evaluation = Annotated[
    str | None,
    typer.Option(
        "--evaluation",
        "--split",
        metavar="NAME",
        help="Folder below RUN/evaluations, such as val or val-best; default: the latest",
        autocompletion=complete_evaluations,
    ),
]


@app.command()
def report(
    run: RunFolder,
    evaluation: Evaluation = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file; default: RUN/report.html")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Write a run's report as one HTML page; runs no model and no code of the run."""
    from resnet_tasks.report.history import read_history
    from resnet_tasks.report.page import write_report

    page = write_report(run, evaluation=evaluation, data_root=data_root, out=out)
    if gaps := read_history(run / "log.jsonl").describe_gaps():
        print_message(gaps, "note:")
    echo(f"written to {page} ({format_bytes(page.stat().st_size)})")


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Two or more run folders", autocompletion=complete_runs),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file")] = Path("comparison.html"),
    evaluation: Evaluation = None,
    costs: Annotated[
        bool,
        typer.Option(
            "--costs/--no-costs",
            help="Run the models to measure their GFLOPs, latency and memory",
        ),
    ] = True,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Image size for the costs, pixels; default: that of the first run",
        ),
    ] = None,
    trust_plugins: Trust = False,
) -> None:
    """Compare several runs with the first one: metrics, costs, and an HTML page."""
    from rich.table import Table

    from resnet_tasks.report.comparison import list_headline_rows, make_comparison
    from resnet_tasks.report.page import write_page
    from resnet_tasks.report.run_view import read_run
    from resnet_tasks.runs.model_cost import measure_run_costs
    from resnet_tasks.runtime.console import Console

    views = [read_run(run) for run in runs]
    page = make_comparison(views, evaluation)  # errors appear before the measurement takes time
    if costs:
        try:
            loaded_runs = [open_run(run, trust_plugins) for run in runs]
            page = make_comparison(views, evaluation, measure_run_costs(loaded_runs, size))
        except (RunError, RecipeError) as error:
            print_message(
                f"costs are not measured, because not all models can be run: {error}", "note:"
            )
    table = Table("", *page.names, title=f"differences from {page.names[0]}")
    for name, texts in list_headline_rows(page):
        table.add_row(name, *texts)
    console = Console()
    console.print(table, highlight=False)
    if page.conditions:
        console.print(f"measured: {page.conditions}", highlight=False, markup=False)
    for warning in page.warnings:
        print_message(warning, "warning:")
    page_path = write_page(page, out)
    echo(f"written to {page_path} ({format_bytes(page_path.stat().st_size)})")


def write_run_report(run: Path, evaluation: str, data_root: Path | None) -> None:
    """Write the page of a run that was just evaluated; a failure is reported but not raised.

    Args:
        run: Path of the run folder.
        evaluation: Name of the new evaluation.
        data_root: Folder of datasets.
    """
    from resnet_tasks.report.page import write_report
    from resnet_tasks.runtime.console import Console
    from resnet_tasks.training.logging.run_log import RunLog

    try:
        page = write_report(run, evaluation=evaluation, data_root=data_root)
    except Exception as error:  # noqa: BLE001 - the run is complete; no error here may fail it
        text = str(error) if isinstance(error, ResnetTasksError) else f"{error!r}"
        print_message(
            f"report.html could not be written ({text}); the run itself is complete, try "
            f"`resnet-tasks report {run}`",
            "note:",
        )
        RunLog(run, Console(stderr=True)).log("report_failed", error=text)
    else:
        echo(f"report:   {page}")
