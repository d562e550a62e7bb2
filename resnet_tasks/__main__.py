"""`python -m resnet_tasks`, and the entry point of the command `resnet-tasks`."""

from __future__ import annotations

import io
import sys

from resnet_tasks.cli import app
from resnet_tasks.files.atomic import ESCAPED


def main() -> None:
    """Runs the command line; exits with 0, 2 (a mistake that can be mended) or 130 (stopped)."""
    _show_any_text()
    app(prog_name="resnet-tasks")


def _show_any_text() -> None:
    """Print what an encoding lacks, such as bytes of file names, escaped instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


if __name__ == "__main__":
    main()
