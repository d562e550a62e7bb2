"""Reports of the checks of COCO files: tables on the console and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnet_tasks.data.coco.problems import Finding, format_list, get_severity
from resnet_tasks.data.doctor.check import FileCheck
from resnet_tasks.data.doctor.repair import RepairReport
from resnet_tasks.data.splits.write_splits import WrittenSplits
from resnet_tasks.files.atomic import json_text, open_atomic

_STYLES = {"error": "bold red", "warning": "yellow", "repaired": "cyan", "note": "dim"}
_SHOWN_IDS = 3


def print_checks(checks: Sequence[FileCheck], console: Console) -> None:
    """Print a table by severity for each file, then a sentence for each kind of finding.

    Args:
        checks: Checks in the order in which the files were passed.
        console: Console to print to.
    """
    for check in checks:
        if check.problems:
            console.print(_build_table(check))
        for problem in check.problems:
            console.print(
                f"{problem.severity}: {problem.kind}: {problem.message}",
                style=_STYLES[problem.severity] if problem.severity == "error" else None,
                markup=False,
                soft_wrap=True,
            )
        console.print(_format_headline(check), markup=False, soft_wrap=True)


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
        f"repaired copy: {report.path} ({number} changes, each listed in {report.changes}); "
        "remaining problems:",
        markup=False,
        soft_wrap=True,
    )


def print_splits(splits: WrittenSplits, console: Console) -> None:
    """Print the contents of every part of a dataset and the written files.

    Args:
        splits: Written parts.
        console: Console to print to.
    """
    table = Table()
    table.add_column(f"by {splits.by}")
    for file in splits.files:
        table.add_column(file.stem, justify="right")
    rows = {"images": splits.images, "groups": splits.groups, **splits.objects}
    for name, numbers in rows.items():
        if name == "groups" and not any(numbers):
            continue
        total = sum(numbers) or 1
        cells = (f"{number} ({100 * number / total:.0f} %)" for number in numbers)
        table.add_row(escape(name), *cells, end_section=name == "images" and not any(splits.groups))
    console.print(table)
    for name, numbers in splits.objects.items():
        absent = [f.stem for f, number in zip(splits.files, numbers, strict=True) if not number]
        if absent and any(numbers):
            console.print(f"note: no {name} in {', '.join(absent)}", markup=False)
    for note in splits.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for file in splits.files:
        console.print(f"written: {file}", markup=False, soft_wrap=True)


def _format_headline(check: FileCheck) -> str:
    names = format_list(check.categories.names, 20) if check.categories else "no categories"
    number = sum(problem.count for problem in check.problems)
    groups = len({record.group for record in check.images} - {None})
    groups_text = f" in {groups} groups" if groups else ""
    return f"{check.path}: {len(check.images)} images{groups_text}, {names}; {number} problems"


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
    for problem in check.problems:
        locations = "; ".join(_format_location(finding) for finding in first[problem.kind])
        style = _STYLES[problem.severity]
        table.add_row(problem.severity, problem.kind, str(problem.count), locations, style=style)
    return table


def _format_location(finding: Finding) -> str:
    parts = []
    if finding.annotation_id is not None:
        parts.append(f"annotation {finding.annotation_id!r}")
    if finding.image_id is not None:
        parts.append(f"image {finding.image_id!r}")
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
