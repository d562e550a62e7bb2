"""Report pages as files: rendered templates that are written completely or not at all."""

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
from resnet_tasks.report.comparison_cells import ComparisonCell
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
    """Write the page of one run.

    Args:
        run: Path of the run folder, finished or not.
        evaluation: Name of the folder below `evaluations/` to show; default: the latest evaluation.
        data_root: Folder that holds the datasets; default: `$RESNET_TASKS_DATA` or `./data`, else
            the location of the data during the evaluation. Without data the page has no images and
            explains why.
        out: Path of the page; default: `report.html` in the run folder.

    Returns:
        Path of the page.

    Raises:
        ResnetTasksError: If it is not a run folder, has no such evaluation, or contains a damaged
            file.
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
    """Write a page that compares several runs with the first one.

    Args:
        runs: Paths of the run folders, at least two.
        out: Path of the page.
        evaluation: Name of the evaluation to compare; default: the latest that all runs have,
            otherwise the latest of each run.
        prices: Measured costs of the models, in the order of the runs; default: not shown.

    Returns:
        Path of the page.

    Raises:
        ResnetTasksError: If there are fewer than two runs, or one of them is not a run folder.
    """
    page = make_comparison([read_run(Path(run)) for run in runs], evaluation, prices)
    return write_page(page, out)


def write_page(page: ComparisonPage, out: Path) -> Path:
    """Write the page of a finished comparison and return its path."""
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
        "bound": _format_bound,
        "significance": _choose_difference_class,
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
    """Return a text file of this package as markup that is inserted unescaped."""
    return Markup(files("resnet_tasks.report").joinpath("templates", name).read_text("utf-8"))


def _format_signed(value: float) -> str:
    if value == 0:
        return "±0"
    if not float(format_score(abs(value))):
        return "±0.000"
    return f"{'−' if value < 0 else '+'}{format_score(abs(value))}"


def _format_bound(value: float) -> str:
    """Return a bound of an interval with its sign; zero has none."""
    return _format_signed(value).removeprefix("±")


def _choose_difference_class(cell: ComparisonCell) -> str:
    """Return the CSS class of a difference; none if it may be chance or is printed as 0."""
    if cell.better is None or cell.difference is None or "±" in _format_signed(cell.difference):
        return ""
    return " better" if cell.better else " worse"


def _make_breakable(name: str) -> Markup:
    """Return a name with optional line breaks after underscores and slashes."""
    safe = Markup("").join(Markup("{}<wbr>").format(part) for part in re.split(r"(?<=[_/])", name))
    return safe.removesuffix("<wbr>")
