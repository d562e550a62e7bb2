"""`python -m tests.support.signal_sweep FORM FOLDER`: SIGTERM at every instruction of a writer.

It runs in a process of its own, which the signal may end. For every instruction of the modules that
write, from the first to the last, the writer starts again and gets the signal there. The program
prints the number of instructions and the exit codes as JSON, and fails if a file is left.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from resnet_tasks.cli.app import exit_cleanly_on_signal
from resnet_tasks.files.atomic import open_together, remove_files_on_error, replace_folder
from resnet_tasks.files.partial_paths import remove_path

CHECKED = ("atomic.py", "partial_paths.py", "contextlib.py")
"""Modules in which a signal arrives at every instruction."""


def write_folder(root: Path) -> None:
    """Write a folder with a file."""
    with replace_folder(root / "folder") as partial:
        (partial / "a").touch()


def write_set(root: Path) -> None:
    """Write two files that appear together."""
    paths = (root / "a", root / "b")
    with remove_files_on_error(paths), open_together(paths):
        pass


FORMS = {"folder": (write_folder, ["folder"]), "set": (write_set, ["a", "b"])}
"""Form -> its writer, and the names of what it writes."""


def sweep(write: Callable[[Path], None], names: list[str], root: Path) -> tuple[int, set[int]]:
    """Stop a writer at every instruction; return their number and the exit codes."""
    num_before, num_instructions, exit_codes = 0, 0, set[int]()

    def trace(frame: FrameType, _: str, __: object) -> Callable[..., Any] | None:
        nonlocal num_instructions
        if not frame.f_code.co_filename.endswith(CHECKED):
            return None
        frame.f_trace_opcodes = True
        num_instructions += 1
        if num_instructions == num_before + 1:
            signal.raise_signal(signal.SIGTERM)
        return trace

    is_stopped = True
    while is_stopped:
        num_instructions, is_stopped = 0, False
        try:
            with exit_cleanly_on_signal(root):
                sys.settrace(trace)
                write(root)
                sys.settrace(None)
        except typer.Exit as stop:
            is_stopped = True
            exit_codes.add(stop.exit_code)
        finally:
            sys.settrace(None)
        left = sorted(path.name for path in root.iterdir())
        assert left == names or (is_stopped and left == []), (num_before, left)
        for path in root.iterdir():
            remove_path(path)
        num_before += 1
    return num_before, exit_codes


if __name__ == "__main__":
    number, codes = sweep(*FORMS[sys.argv[1]], Path(sys.argv[2]))
    print(json.dumps({"instructions": number, "exit_codes": sorted(codes)}))
