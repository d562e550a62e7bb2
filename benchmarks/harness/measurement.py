"""What the measurements share: fresh processes, rows of the table, machine and versions, files.

Nothing here imports torch, so that what is measured in fresh processes is not slowed by its parent;
`side_by_side` has what needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import strftime
from typing import Any, Literal

from resnet_tasks.errors import DataError

Kind = Literal["same precision", "as it comes", "alone"]

REPEATS = 7
"""Runs whose median counts, at least."""
QUICK = "--quick shows that the measurement runs; its numbers mean nothing"

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
    """One row of the table.

    Attributes:
        work: What is done, at which size and precision.
        kind: `same precision`: the peer gets ours and channels-last too; `as it comes`: the peer's
            own defaults against ours; `alone`: there is no peer, ours stands against a limit.
        peer: Its name, or what ours is held against.
        ours: In `unit`; lower is better.
        theirs: Likewise; None without a peer.
        unit: `s` or `bytes`; seconds are medians.
        goal: Least `ratio` of seconds, greatest of bytes; without a peer the greatest `ours`.
        agreement: How it was checked that both did the same, and how near they came.
        metric: As it comes: what the recipe's model reached, and where that was measured.
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
        """Seconds: how many times faster ours is. Bytes: ours over the peer's."""
        if self.theirs is None:
            return None
        return self.theirs / self.ours if self.unit == "s" else self.ours / self.theirs

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        if self.ratio is None:
            return self.ours <= self.goal
        return self.ratio >= self.goal if self.unit == "s" else self.ratio <= self.goal

    def to_json(self) -> dict[str, Any]:
        """As plain values, with ratio and whether the goal is reached."""
        return {**asdict(self), "ratio": self.ratio, "is_reached": self.is_reached}

    def to_cells(self) -> tuple[str, ...]:
        """As the table has it, see `HEADINGS`."""
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
    """A number of seconds or bytes, for people."""
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB" if value < 1e9 else f"{value / 1e9:.2f} GB"
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"


def format_markdown_table(rows: Sequence[BenchmarkRow]) -> str:
    """The rows as a Markdown table, in their order."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.to_cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_rows(report: Mapping[str, Any]) -> list[BenchmarkRow]:
    """The rows that a report holds, as `with_rows` put them there."""
    derived = ("ratio", "is_reached")
    return [
        BenchmarkRow(**{key: value for key, value in row.items() if key not in derived})
        for row in report.get("rows", [])
    ]


def add_rows(report: Mapping[str, Any], rows: Sequence[BenchmarkRow]) -> dict[str, Any]:
    """A report that holds rows for the table of all measurements."""
    return {**report, "rows": [row.to_json() for row in rows]}


def run_in_fresh_process(
    code: str, *arguments: Path | str | int, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs Python code in a process of its own.

    Args:
        code: Reads `arguments` from `sys.argv[1:]` and prints one JSON object.
        arguments: For the code.
        environment: Variables besides those of this process.

    Raises:
        DataError: If it failed.
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
    """Times code in a process of its own, from its first import on.

    Args:
        work: Reads `arguments` from `sys.argv[1:]` and leaves what it found in `found`.
        arguments: For the code.

    Returns:
        `seconds`, `cpu_seconds`, `bytes` (the process's greatest memory) and `found`.

    Raises:
        DataError: If it failed.
    """
    return run_in_fresh_process(_TIMED.format(work=work), *arguments)


def collect_environment(*packages: str) -> dict[str, Any]:
    """Machine, versions and date of a measurement.

    Args:
        packages: Whose versions matter, besides our own.
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
    """The processor's name and the units that decide how fast bf16 is."""
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
    """A parser with `--out` and `--quick`, which every measurement has.

    Args:
        name: Of the measurement.
        description: What its help says, laid out.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, no more")
    return parser


def finish_report(
    report: Mapping[str, Any],
    rows: Sequence[BenchmarkRow],
    options: argparse.Namespace,
    *,
    summary: str = "",
) -> dict[str, Any]:
    """Prints what a measurement found, and writes its report where that is wanted.

    Args:
        report: Plain values.
        rows: For the table of all measurements.
        options: With `out` and `quick`.
        summary: For people; default: the rows as a table.

    Returns:
        The report with the rows.
    """
    content = {**add_rows(report, rows), "quick": options.quick}
    print(summary or format_markdown_table(rows))
    if options.quick:
        print(QUICK)
    elif getattr(options, "repeats", REPEATS) < REPEATS:
        print(f"medians of {options.repeats} run(s); numbers to quote take {REPEATS}")
    if options.out is not None:
        options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"written to {options.out}")
    return content
