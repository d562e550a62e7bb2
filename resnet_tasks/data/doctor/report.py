"""Reports of the checks of COCO files: tables on the console and JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from resnet_tasks.data.coco.problems import FIX_HINT, Finding, Problem, get_severity
from resnet_tasks.data.doctor.check import FileCheck
from resnet_tasks.data.doctor.repair import RepairReport
from resnet_tasks.data.splits.write_splits import WrittenSplits
from resnet_tasks.errors import (
    MAX_LISTED,
    MAX_NAME,
    format_list,
    limit_message,
    limit_name,
    shorten_name,
)
from resnet_tasks.files.atomic import json_text, open_atomic
from resnet_tasks.number_formats import Count
from resnet_tasks.runtime.console import Console

_STYLES = {"error": "bold red", "warning": "yellow", "repaired": "cyan", "note": "dim"}
_SHOWN_IDS = 3
_NOT_READ = " (images not decoded; --read-images decodes them)"
USUAL_PARTS = 3
"""Number of parts (train, val, test) up to which a table has room for names of full length."""
MAX_ROWS = 20
"""Maximum number of classes that are all rows of a table."""


def print_checks(checks: Sequence[FileCheck], console: Console) -> None:
    """Print a table by severity for each file, then a sentence for each kind of finding.

    Errors are only in the table; `print_errors` prints their sentences after everything else.

    Args:
        checks: Checks in the order in which the files were passed.
        console: Console to print to.
    """
    for check in checks:
        if check.problems:
            console.print(_build_table(check))
        for problem in reversed(check.problems):
            if problem.severity != "error":
                _print_problem(problem, console)
        console.print(_format_headline(check), markup=False, soft_wrap=True)


def print_errors(checks: Sequence[FileCheck], console: Console) -> None:
    """Print a sentence for each kind of error of all files.

    Args:
        checks: Checks in the order in which the files were passed.
        console: Console to print to.
    """
    for check in checks:
        for problem in check.problems:
            if problem.severity == "error":
                _print_problem(problem, console, style=_STYLES["error"])


def _print_problem(problem: Problem, console: Console, style: str | None = None) -> None:
    text = f"{problem.severity}: {problem.kind}: {problem.message}"
    console.print(limit_message(text), style=style, markup=False, soft_wrap=True)


def drop_fix_hints(check: FileCheck) -> FileCheck:
    """Return the check of a repaired copy without proposals to repair the copy again."""
    problems = (
        replace(problem, message=problem.message.replace(FIX_HINT, "; --fix does not repair it"))
        for problem in check.problems
    )
    return replace(check, problems=tuple(problems))


def print_repair(report: RepairReport, console: Console) -> None:
    """Print the number of changes of each kind, and where they are listed.

    Args:
        report: Result of the repair.
        console: Console to print to.
    """
    for kind, count in report.counts.items():
        console.print(f"changed: {kind}: {count}", markup=False, soft_wrap=True)
    number = sum(report.counts.values())
    console.print(
        f"repaired copy: {report.path} ({Count(number):change}, each listed in {report.changes}); "
        "remaining problems:",
        markup=False,
        soft_wrap=True,
    )


def print_splits(splits: WrittenSplits, console: Console) -> None:
    """Print the contents of every part of a dataset and the written files.

    Of many classes, only the most and the least frequent ones are rows of the table.

    Args:
        splits: Written parts.
        console: Console to print to.
    """
    table = Table()
    table.add_column(f"by {splits.by}")
    for file in splits.files:
        table.add_column(file.stem, justify="right")
    # A list, because a class may be called `images`.
    rows = [("images", splits.images)]
    if any(splits.groups):
        rows.append(("groups", splits.groups))
    rows += splits.subgroups.items()
    num_general_rows = len(rows)
    rows += _select_rows(splits.objects)
    for i, (name, numbers) in enumerate(rows, start=1):
        total = sum(numbers) or 1
        cells = (f"{number} ({100 * number / total:.0f} %)" for number in numbers)
        table.add_row(name, *cells, end_section=i == num_general_rows)
    console.print(table)
    for note in (*_describe_absent_classes(splits), *splits.notes):
        console.print(limit_message(f"note: {note}"), markup=False, soft_wrap=True)
    if len(splits.objects) > MAX_ROWS:
        names = " ".join(shlex.quote(str(file)) for file in splits.files)
        console.print(
            f"all {len(splits.objects)} classes: resnet-tasks data check {names} --json OUT",
            markup=False,
            soft_wrap=True,
        )
    for file in splits.files:
        console.print(f"written: {file}", markup=False, soft_wrap=True)


def _select_rows(objects: Mapping[str, tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the rows of the classes; of many, their sum, and the most and least frequent ones."""
    if len(objects) <= MAX_ROWS:
        return [(limit_name(name), numbers) for name, numbers in objects.items()]
    present = {name: numbers for name, numbers in objects.items() if any(numbers)}
    ranked = sorted(present, key=lambda name: -sum(present[name]))
    half = MAX_ROWS // 4
    shown_names = ranked if len(ranked) <= 2 * half else [*ranked[:half], *ranked[-half:]]
    total = tuple(sum(column) for column in zip(*objects.values(), strict=True))
    # In 80 columns, the numbers of five folds leave 16 for the names.
    length = MAX_NAME if len(total) <= USUAL_PARTS else 14
    rows = [(f"all {len(objects)} classes", total)]
    return rows + [(f"  {shorten_name(name, length)}", objects[name]) for name in shown_names]


def _describe_absent_classes(splits: WrittenSplits) -> list[str]:
    """Return a note on each part without objects of some class.

    If the table shortens the classes, there is also a note on those that no part has.
    """
    notes = []
    for number, file in enumerate(splits.files):
        absent = [name for name, n in splits.objects.items() if any(n) and not n[number]]
        if absent:
            notes.append(f"{file.stem} has no objects of {_format_classes(absent)}")
    unused = [name for name, numbers in splits.objects.items() if not any(numbers)]
    if unused and len(splits.objects) > MAX_ROWS:
        notes.append(f"no part has objects of {_format_classes(unused)}")
    return notes


def _format_classes(names: Sequence[str]) -> str:
    number = f"{len(names)} classes: " if len(names) > 1 else ""
    return number + format_list(map(shorten_name, names))


def _format_headline(check: FileCheck) -> str:
    categories = check.categories.names if check.categories else ()
    names = format_list(map(shorten_name, categories)) if categories else "no categories"
    if len(categories) > MAX_LISTED:
        names = f"{len(categories)} categories ({names})"
    number = sum(problem.count for problem in check.problems)
    groups = len({record.group for record in check.images} - {None})
    groups_text = f" in {Count(groups):group}" if groups else ""
    where = " (--json FILE lists all)" if number > len(check.problems) else ""
    if not check.problems and not check.has_read_images:
        where = _NOT_READ  # no problem is not the result of a complete check
    return (
        f"{check.path}: {Count(len(check.images)):image}{groups_text}, {names}; "
        f"{Count(number):problem}{where}"
    )


def _build_table(check: FileCheck) -> Table:
    table = Table()
    for name, side in (("severity", "left"), ("finding", "left"), ("count", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("first")
    first: dict[str, list[Finding]] = {}
    for finding in check.findings:
        examples = first.setdefault(finding.kind, [])
        if len(examples) < _SHOWN_IDS:
            examples.append(finding)
    for problem in reversed(check.problems):
        locations = "; ".join(dict.fromkeys(map(_format_location, first[problem.kind])))
        style = _STYLES[problem.severity]
        table.add_row(problem.severity, problem.kind, str(problem.count), locations, style=style)
    return table


def _format_location(finding: Finding) -> str:
    parts = []
    if finding.annotation_id is not None:
        parts.append(f"annotation {limit_name(repr(finding.annotation_id))}")
    if finding.image_id is not None:
        parts.append(f"image {limit_name(repr(finding.image_id))}")
    return ", ".join(parts) or "the file"


def write_findings(checks: Sequence[FileCheck], path: Path) -> None:
    """Write every finding as JSON, one per line. The file is complete or absent.

    Raises:
        RunError: If the file cannot be written.
    """
    with open_atomic(path) as stream:
        stream.write('{"files": [')
        for number, check in enumerate(checks):
            stream.write(",\n" if number else "\n")
            head = json_text(_summarize_check(check), indent=1).removesuffix("\n}")
            stream.write(f'{head},\n "findings": [')
            for place, finding in enumerate(check.findings):
                entry = json_text(_finding_to_json(finding))
                stream.write(f"{',' if place else ''}\n  {entry}")
            stream.write("\n ]}")
        stream.write("\n]}\n")


def _summarize_check(check: FileCheck) -> dict[str, Any]:
    categories = check.categories.categories if check.categories else ()
    return {
        "file": str(check.path),
        "images_root": str(check.images_root),
        "images": len(check.images),
        "objects": {category.name: check.objects.get(category.id, 0) for category in categories},
        "annotated": sorted(check.annotated),
        "is_usable": check.is_usable,
        "problems": [
            {
                "severity": problem.severity,
                "kind": problem.kind,
                "count": problem.count,
                "message": problem.message,
            }
            for problem in check.problems
        ],
    }


def _finding_to_json(finding: Finding) -> dict[str, Any]:
    return {
        "severity": get_severity(finding.kind),
        "kind": finding.kind,
        "image_id": finding.image_id,
        "annotation_id": finding.annotation_id,
        "place": None if finding.location is None else "{}[{}]".format(*finding.location),
        "detail": finding.detail,
    }
