"""Shared parts of the benchmarks: fresh processes, result rows, environment and report files.

This module does not import torch, so that it does not slow down benchmarks that run in fresh
processes. Code that needs torch is in `side_by_side`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import strftime
from typing import Any, Literal

from resnet_tasks.errors import DataError
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.number_formats import Count, format_bytes

Kind = Literal["same precision", "as it comes", "alone"]
Clock = Literal["wall", "cpu"]
"""Seconds on the clock, or CPU seconds of all threads of the process."""

REPEATS = 7
"""Minimum number of runs for a median."""
QUICK = "--quick only shows that the benchmark runs; its numbers mean nothing"

_BYTECODE = Path(tempfile.gettempdir()) / "resnet_tasks_benchmarks"
"""Folder of the compiled modules of measured processes."""
_TIMED = """
import json, resource, sys, time
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_SELF)
# On Linux `ru_maxrss` starts from the parent's; `VmHWM` is this program's own. macOS counts bytes.
if sys.platform == "linux":
    lines = open("/proc/self/status").read().splitlines()
    memory = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
else:
    memory = used.ru_maxrss
cpu = used.ru_utime + used.ru_stime
print(json.dumps({{"seconds": seconds, "cpu_seconds": cpu, "bytes": memory, "found": found}}))
"""


@dataclass(frozen=True)
class BenchmarkRow:
    """One row of the result table.

    Attributes:
        work: Description of the work with its size and precision.
        kind: `same precision`: the peer gets our precision and channels-last too. `as it comes`:
            both run with their own defaults. `alone`: without a peer, ours is compared with a
            limit.
        peer: Name of the peer, or of the limit.
        ours: Our result in `unit`; lower is better.
        theirs: The peer's result in `unit`; None without a peer.
        unit: `s` (median seconds) or `bytes`.
        goal: Minimum `ratio` for seconds, maximum `ratio` for bytes, maximum `ours` without a peer.
        agreement: Check that both did the same work, with the difference between their results.
        metric: Metric that the recipe's model reached and its source, for `as it comes`.
    """

    work: str
    kind: Kind
    peer: str
    ours: float
    theirs: float | None
    unit: Literal["s", "bytes"]
    goal: float | None = None
    agreement: str = ""
    metric: str = ""

    @property
    def ratio(self) -> float | None:
        """For seconds, the factor by which ours is faster; for bytes, ours over the peer's."""
        if self.theirs is None:
            return None
        return self.theirs / self.ours if self.unit == "s" else self.ours / self.theirs

    @property
    def is_reached(self) -> bool | None:
        """True if the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        if self.ratio is None:
            return self.ours <= self.goal
        return self.ratio >= self.goal if self.unit == "s" else self.ratio <= self.goal

    def to_json(self) -> dict[str, Any]:
        """Return plain values, including the ratio and whether the goal is reached."""
        return {**asdict(self), "ratio": self.ratio, "is_reached": self.is_reached}

    def to_cells(self) -> tuple[str, ...]:
        """Return the cells of the table row, in the order of `HEADINGS`."""
        goal = ""
        if self.goal is not None:
            sign = ">=" if self.unit == "s" and self.theirs is not None else "<="
            times = (
                f"{self.goal:g}x"
                if self.theirs is not None
                else format_quantity(self.goal, self.unit)
            )
            goal = f"{sign} {times}" + ("" if self.is_reached else " (missed)")
        return (
            self.work,
            self.kind,
            self.peer,
            format_quantity(self.ours, self.unit),
            "" if self.theirs is None else format_quantity(self.theirs, self.unit),
            "" if self.ratio is None else f"{self.ratio:.2f}x",
            goal,
            "; ".join(note for note in (self.agreement, self.metric) if note),
        )


HEADINGS = ("work", "kind", "peer", "ours", "peer's", "ratio", "goal", "checked")


def format_quantity(value: float, unit: str) -> str:
    """Format a number of seconds or bytes with a suitable unit."""
    if unit == "bytes":
        return format_bytes(value)
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"


def format_markdown_table(rows: Sequence[BenchmarkRow]) -> str:
    """Format the rows as a Markdown table, in their order."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.to_cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_rows(report: Mapping[str, Any]) -> list[BenchmarkRow]:
    """Read the rows that `add_rows` put into a report."""
    derived = ("ratio", "is_reached")
    return [
        BenchmarkRow(**{key: value for key, value in row.items() if key not in derived})
        for row in report.get("rows", [])
    ]


def add_rows(report: Mapping[str, Any], rows: Sequence[BenchmarkRow]) -> dict[str, Any]:
    """Add rows to a report, for the table of all benchmarks."""
    return {**report, "rows": [row.to_json() for row in rows]}


def run_in_fresh_process(
    code: str, *arguments: Path | str | int, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run Python code in a fresh process.

    Args:
        code: Code that reads `arguments` from `sys.argv[1:]` and prints one JSON object.
        arguments: Command line arguments of the code.
        environment: Environment variables in addition to those of this process.

    Raises:
        DataError: If the process failed.
    """
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if process.returncode != 0:
        error_lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise DataError(f"a measured process failed: {error_lines[-1]}")
    output: dict[str, Any] = json.loads(process.stdout)
    return output


def time_process(work: str, *arguments: Path | str | int) -> dict[str, Any]:
    """Time code in a fresh process, from its first import on.

    Args:
        work: Code that reads `arguments` from `sys.argv[1:]` and assigns its result to `found`.
        arguments: Command line arguments of the code.

    Returns:
        `seconds`, `cpu_seconds`, `bytes` (peak memory of the process) and `found`.

    Raises:
        DataError: If the process failed.
    """
    # As after an installation: modules are compiled once, and not in every process.
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(_BYTECODE)}
    return run_in_fresh_process(_TIMED.format(work=work), *arguments, environment=bytecode)


def collect_environment(*packages: str) -> dict[str, Any]:
    """Collect the machine, versions and date of a measurement.

    Args:
        packages: Packages whose versions matter, in addition to this one.
    """
    return {
        "hardware": {
            "cpu": _describe_processor(),
            "cores": os.cpu_count(),
            "load": list(os.getloadavg()),
        },
        "versions": {name: _find_version(name) for name in ("resnet-tasks", *packages)},
        "python": platform.python_version(),
        "date": strftime("%Y-%m-%d %H:%M:%S"),
    }


def _describe_processor() -> str:
    """Return the name of the processor and its vector units, which determine the speed of bf16."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set((re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE) or [""])[0].split())
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    return " ".join([name[1] if name else platform.machine(), *units])


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def make_option_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Create a parser with `--out` and `--quick`, the options of every benchmark.

    Args:
        name: Name of the benchmark.
        description: Formatted help text.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    parser.add_argument(
        "--quick", action="store_true", help=("tiny run that only shows that the benchmark works")
    )
    return parser


def finish_report(
    report: Mapping[str, Any],
    rows: Sequence[BenchmarkRow],
    options: argparse.Namespace,
    *,
    summary: str = "",
) -> dict[str, Any]:
    """Print the results of a benchmark, and write its report if `--out` is given.

    Args:
        report: Report of plain values.
        rows: Rows for the table of all benchmarks.
        options: Parsed options with `out` and `quick`.
        summary: Text to print; default: the rows as a table.

    Returns:
        Report with the rows.
    """
    content = {**add_rows(report, rows), "quick": options.quick}
    print(summary or format_markdown_table(rows))
    if options.quick:
        print(QUICK)
    elif getattr(options, "repeats", REPEATS) < REPEATS:
        print(f"medians of {Count(options.repeats):run}; numbers to quote need {REPEATS} runs")
    if getattr(options, "clock", "wall") == "cpu":
        print("CPU seconds of all threads of this process (--clock cpu), not time on the clock")
    if options.out is not None:
        options.out.write_text(encode_json(content, indent=2) + "\n", encoding="utf-8")
        print(f"written to {options.out}")
    return content
