"""Duration of the command's help and of `import resnet_tasks`, each in a fresh process.

They alternate with an interpreter that does nothing, so that the startup time of Python is known.
The import must not import torch or other heavy packages, which another fresh process checks.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.harness.measurement import (
    REPEATS,
    BenchmarkRow,
    collect_environment,
    finish_report,
    make_option_parser,
    run_in_fresh_process,
)
from resnet_tasks.errors import DataError

LIMIT = 0.3
"""Maximum duration of the help in seconds, interpreter included."""
HEAVY = ("torch", "timm", "torchvision", "albumentations", "cv2", "pydantic")
_IMPORT = f"""
import json, sys
import resnet_tasks
print(json.dumps({{"heavy": [name for name in {HEAVY!r} if name in sys.modules]}}))
"""


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report.

    Raises:
        DataError: If `import resnet_tasks` imports a heavy package, or a process failed.
    """
    parser = make_option_parser("startup", __doc__)
    parser.add_argument("--repeats", type=int, default=3 * REPEATS)
    options = parser.parse_args(argv)
    if options.quick:
        options.repeats = 1
    heavy = run_in_fresh_process(_IMPORT)["heavy"]
    if heavy:
        raise DataError(f"import resnet_tasks also imports {', '.join(heavy)}")
    works: dict[str, Callable[[], None]] = {
        "python": _make_command("-c", "pass"),
        "import": _make_command("-c", "import resnet_tasks"),
        "help": _make_command("-m", "resnet_tasks", "--help"),
    }
    runs: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(options.repeats + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if turn:  # the first turn only fills the file cache
                runs[name].append(time.perf_counter() - started)
    seconds = {name: median(run_seconds) for name, run_seconds in runs.items()}
    peer = "a Python process that does nothing"
    rows = [
        BenchmarkRow(
            "resnet-tasks --help", "alone", "our own limit", seconds["help"], None, "s", LIMIT
        ),
        BenchmarkRow(
            "import resnet_tasks",
            "alone",
            peer,
            seconds["import"],
            seconds["python"],
            "s",
            agreement=f"imports none of {', '.join(HEAVY)}",
        ),
    ]
    report = {**collect_environment("typer"), "seconds": seconds, "runs": runs}
    return finish_report(report, rows, options)


def _make_command(*arguments: str) -> Callable[[], None]:
    def run() -> None:
        command = [sys.executable, *arguments]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode != 0:
            raise DataError(f"{' '.join(arguments)} failed: {process.stderr.strip()[-300:]}")

    return run
