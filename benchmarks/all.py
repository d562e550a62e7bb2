"""All benchmarks, each in a fresh process, with one JSON file and one Markdown table.

    python -m benchmarks all                               # an hour or more, on an idle machine
    python -m benchmarks all --quick                       # minutes; only checks that all run
    python -m benchmarks all --only startup detector_step

A benchmark is a module of this folder with `main(argv)` that accepts `--out FILE` and `--quick`
and puts its rows into its report (`harness.measurement.add_rows`). New modules are found
automatically. If a benchmark fails, its name is reported and the others still run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.__main__ import list_benchmarks
from benchmarks.harness.measurement import (
    QUICK,
    BenchmarkRow,
    collect_environment,
    format_markdown_table,
    read_rows,
)
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.number_formats import Count

EXCLUDED = {
    "all": "is this one",
    "experiments": "trains heads for hours and has no peer",
    "coverage": "simulates for two hours and has no peer",
    "degradation": "trains networks for hours and has no peer",
}
SECTIONS = {
    "same precision": "Same precision: the peer gets bf16 and channels-last too",
    "as it comes": "As it comes: the peer's own defaults against ours",
    "alone": "Without a peer",
}


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmarks, write `benchmarks.json` and `benchmarks.md`, and print the table.

    Returns:
        Content of the JSON file.

    Raises:
        DataError: If a benchmark is unknown or, after all have run, if one failed.
    """
    options = _parse_options(argv)
    names = options.only or [name for name in list_benchmarks() if name not in EXCLUDED]
    unknown = sorted(set(names) - list_benchmarks().keys())
    if unknown:
        raise DataError(
            f"there is no benchmark {unknown[0]!r}; available: {', '.join(list_benchmarks())}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    reports: dict[str, Any] = {}
    failed = {}
    for name in names:
        print(f"--- {name}", flush=True)
        code = _run_benchmark(name, options.out, is_quick=options.quick)
        file = options.out / f"{name}.json"
        if file.exists():
            reports[name] = json.loads(file.read_text(encoding="utf-8"))
        if code != 0:
            failed[name] = code
    content = {
        **collect_environment(),
        "quick": options.quick,
        "failed": failed,
        "measurements": reports,
    }
    (options.out / "benchmarks.json").write_text(encode_json(content, indent=2), encoding="utf-8")
    text = _format_report(reports, is_quick=options.quick)
    (options.out / "benchmarks.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {options.out}/benchmarks.json and {options.out}/benchmarks.md")
    if failed:
        failures = ", ".join(f"{name} (exit code {code})" for name, code in failed.items())
        raise DataError(f"these benchmarks failed: {failures}; see above")
    return content


def _parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks all", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these benchmarks")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder")
    parser.add_argument(
        "--quick", action="store_true", help=("tiny run that only shows that the benchmarks work")
    )
    return parser.parse_args(argv)


def _run_benchmark(name: str, folder: Path, *, is_quick: bool) -> int:
    """Remove the previous report of a benchmark, run the benchmark and return its exit code."""
    file = folder / f"{name}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks", name, "--out", str(file)]
    return subprocess.run([*command, *(["--quick"] if is_quick else [])], check=False).returncode


def _format_report(reports: Mapping[str, Mapping[str, Any]], *, is_quick: bool) -> str:
    """Format the rows of all reports, grouped by kind, and the machines of the measurements."""
    rows = [row for report in reports.values() for row in read_rows(report)]
    parts = [f"{QUICK}\n"] if is_quick else []
    for kind, title in SECTIONS.items():
        section_rows: list[BenchmarkRow] = [row for row in rows if row.kind == kind]
        if section_rows:
            parts.append(f"**{title}**\n\n{format_markdown_table(section_rows)}\n")
    machines = {_describe_machine(report) for report in reports.values() if "hardware" in report}
    return "\n".join([*parts, *(f"Measured on {machine}." for machine in sorted(machines))]) + "\n"


def _describe_machine(report: Mapping[str, Any]) -> str:
    threads = f", {Count(report['threads']):thread}" if "threads" in report else ""
    torch = report.get("versions", {}).get("torch")
    return (
        f"{report['hardware']['cpu']}, {report['hardware']['cores']} cores{threads}"
        f"{f', torch {torch}' if torch else ''}, {report['date'].split()[0]}"
    )
