"""Entry point of `python -m resnet_tasks` and of the command `resnet-tasks`."""

from __future__ import annotations

import io
import sys

from resnet_tasks.cli import app
from resnet_tasks.files.atomic import ESCAPED


def main() -> None:
    """Run the command line and exit with 0, 2 (a user error) or 130 (interrupted)."""
    _show_any_text()
    app(prog_name="resnet-tasks")


def _show_any_text() -> None:
    """Escape characters that the output encoding lacks, such as bytes of file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


if __name__ == "__main__":
    main()
