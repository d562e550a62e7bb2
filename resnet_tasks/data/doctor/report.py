"""What was found in COCO files: a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnet_tasks.data.coco_problems import Finding, listed, severity_of
from resnet_tasks.data.doctor.check import FileCheck
from resnet_tasks.data.doctor.repair import Repair
from resnet_tasks.data.split_writing import WrittenSplits
from resnet_tasks.whole_files import json_text, whole_file

_STYLES = {"error": "bold red", "warning": "yellow", "repaired": "cyan", "note": "dim"}
_SHOWN_IDS = 3


def print_checks(checks: Sequence[FileCheck], console: Console) -> None:
    """Prints a table by severity for each file, then a sentence for each kind of finding.

    Args:
        checks: In the order in which the files were given.
        console: Where to.
    """
    for check in checks:
        if check.problems:
            console.print(_table(check))
        for problem in check.problems:
            console.print(
                f"{problem.severity}: {problem.kind}: {problem.message}",
                style=_STYLES[problem.severity] if problem.severity == "error" else None,
                markup=False,
                soft_wrap=True,
            )
        console.print(_headline(check), markup=False, soft_wrap=True)


def print_repair(made: Repair, console: Console) -> None:
    """Prints what was changed, and where that is listed.

    Args:
        made: The repair.
        console: Where to.
    """
    for kind, count in made.counts.items():
        console.print(f"changed: {kind}: {count}", markup=False, soft_wrap=True)
    number = sum(made.counts.values())
    console.print(
        f"repaired copy: {made.path} ({number} changes, each in {made.changes}); what is left:",
        markup=False,
        soft_wrap=True,
    )


def print_splits(made: WrittenSplits, console: Console) -> None:
    """Prints what every part of a data set holds, and how a recipe names the parts.

    Args:
        made: The parts.
        console: Where to.
    """
    table = Table()
    table.add_column(f"by {made.by}")
    for file in made.files:
        table.add_column(file.stem, justify="right")
    rows = {"pictures": made.pictures, "groups": made.groups, **made.objects}
    for name, numbers in rows.items():
        if name == "groups" and not any(numbers):
            continue
        total = sum(numbers) or 1
        cells = (f"{number} ({100 * number / total:.0f} %)" for number in numbers)
        table.add_row(escape(name), *cells, end_section=name == "pictures" and not any(made.groups))
    console.print(table)
    for name, numbers in made.objects.items():
        absent = [f.stem for f, number in zip(made.files, numbers, strict=True) if not number]
        if absent and any(numbers):
            console.print(f"note: no {name} in {', '.join(absent)}", markup=False)
    for note in made.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for file in made.files:
        console.print(f"written: {file}", markup=False, soft_wrap=True)


def _headline(check: FileCheck) -> str:
    names = listed(check.categories.names, 20) if check.categories else "no categories"
    number = sum(problem.count for problem in check.problems)
    groups = len({record.group for record in check.images} - {None})
    held = f" in {groups} groups" if groups else ""
    return f"{check.path}: {len(check.images)} pictures{held}, {names}; {number} problems"


def _table(check: FileCheck) -> Table:
    table = Table()
    for name, side in (("severity", "left"), ("finding", "left"), ("count", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("first")
    first: dict[str, list[Finding]] = {}
    for finding in check.findings:
        named = first.setdefault(finding.kind, [])
        if len(named) < _SHOWN_IDS:
            named.append(finding)
    for problem in check.problems:
        places = "; ".join(_place(each) for each in first[problem.kind])
        style = _STYLES[problem.severity]
        table.add_row(problem.severity, problem.kind, str(problem.count), places, style=style)
    return table


def _place(finding: Finding) -> str:
    parts = []
    if finding.annotation_id is not None:
        parts.append(f"annotation {finding.annotation_id!r}")
    if finding.image_id is not None:
        parts.append(f"image {finding.image_id!r}")
    return ", ".join(parts) or "the file"


def write_findings(checks: Sequence[FileCheck], path: Path) -> None:
    """Writes every finding as JSON, one a line; the file appears whole or not at all.

    Raises:
        RunError: If it cannot be written.
    """
    with whole_file(path) as stream:
        stream.write('{"files": [')
        for number, check in enumerate(checks):
            stream.write(",\n" if number else "\n")
            head = json_text(_about(check), indent=1).removesuffix("\n}")
            stream.write(f'{head},\n "findings": [')
            for place, finding in enumerate(check.findings):
                entry = json_text(_entry(finding))
                stream.write(f"{',' if place else ''}\n  {entry}")
            stream.write("\n ]}")
        stream.write("\n]}\n")


def _about(check: FileCheck) -> dict[str, Any]:
    categories = check.categories.categories if check.categories else ()
    return {
        "file": str(check.path),
        "images_root": str(check.images_root),
        "images": len(check.images),
        "objects": {each.name: check.objects.get(each.id, 0) for each in categories},
        "annotated": sorted(check.annotated),
        "is_usable": check.is_usable,
        "problems": [
            {
                "severity": each.severity,
                "kind": each.kind,
                "count": each.count,
                "message": each.message,
            }
            for each in check.problems
        ],
    }


def _entry(finding: Finding) -> dict[str, Any]:
    return {
        "severity": severity_of(finding.kind),
        "kind": finding.kind,
        "image_id": finding.image_id,
        "annotation_id": finding.annotation_id,
        "place": None if finding.place is None else "{}[{}]".format(*finding.place),
        "detail": finding.detail,
    }
