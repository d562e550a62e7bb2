"""The pages as files: templates filled in, written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from time import strftime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from resnet_tasks.files.atomic import write_text
from resnet_tasks.report.charts import format_number, format_score
from resnet_tasks.report.comparison import ComparisonPage, make_comparison
from resnet_tasks.report.run_view import read_run
from resnet_tasks.report.sections import make_page
from resnet_tasks.runs.model_cost import CostComparison


def write_report(
    run: Path | str,
    *,
    evaluation: str | None = None,
    data_root: Path | None = None,
    out: Path | None = None,
) -> Path:
    """Writes the page of one run.

    Args:
        run: The run folder, finished or not.
        evaluation: Name of the folder below `evaluations/` that leads; default: the latest.
        data_root: Folder that holds data sets; default: `$RESNET_TASKS_DATA` or `./data`, else
            where the data lay when it was judged. Without data the page has no images and says
            so.
        out: The file; default: `report.html` in the run folder.

    Returns:
        The file.

    Raises:
        ResnetTasksError: If it is no run folder, has no such evaluation, or a file in it is
            damaged.
    """
    view = read_run(Path(run))
    evaluation_view = view.find_evaluation(evaluation)
    page = make_page(view, evaluation_view, data_root)
    target = out or view.folder / "report.html"
    write_text(target, _render_template("report.html.j2", page=page))
    return target


def write_comparison(
    runs: Sequence[Path | str],
    out: Path,
    *,
    evaluation: str | None = None,
    prices: CostComparison | None = None,
) -> Path:
    """Writes a page of several runs beside each other; the first is what the others differ from.

    Args:
        runs: Run folders, at least two.
        out: The file.
        evaluation: Name of the evaluation to compare; default: the latest that all have.
        prices: What the models cost, in the order of the runs; default: that is left out.

    Returns:
        The file.

    Raises:
        ResnetTasksError: If there are fewer than two, or one of them is no run folder.
    """
    page = make_comparison([read_run(Path(run)) for run in runs], evaluation, prices)
    return write_page(page, out)


def write_page(page: ComparisonPage, out: Path) -> Path:
    """Writes a comparison that was made; gives the file."""
    write_text(out, _render_template("comparison.html.j2", page=page))
    return out


def _render_template(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("resnet_tasks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters |= {
        "share": format_score,
        "signed": _format_signed,
        "breakable": _make_breakable,
    }
    generation_note = f"{strftime('%Y-%m-%d %H:%M')} by resnet-tasks {version('resnet-tasks')}"
    return environment.get_template(template).render(
        css=_read_package_text("page.css"),
        js=_read_package_text("page.js"),
        made=generation_note,
        **values,
    )


def _read_package_text(name: str) -> Markup:
    """A text of this package, which goes into the page as it is."""
    return Markup(files("resnet_tasks.report").joinpath("templates", name).read_text("utf-8"))


def _format_signed(value: float) -> str:
    if value == 0:
        return "±0"
    if not float(format_score(abs(value))):
        return "±0.000"
    return f"{'−' if value < 0 else '+'}{format_score(abs(value))}"


def _make_breakable(name: str) -> Markup:
    """A name that may be broken behind underscores and slashes."""
    safe = Markup("").join(Markup("{}<wbr>").format(part) for part in re.split(r"(?<=[_/])", name))
    return safe.removesuffix("<wbr>")
