"""Entry point of `python -m resnet_tasks` and of the command `resnet-tasks`."""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from types import TracebackType

from resnet_tasks.cli import app
from resnet_tasks.cli.assistance.output import echo
from resnet_tasks.files.atomic import ESCAPED
from resnet_tasks.foreign_text import escape_controls


def main() -> None:
    """Run the command line and exit with 0, 2 (a user error) or 130 (interrupted).

    An error of the program itself ends it with a traceback and 1.
    """
    _show_any_text()
    _escape_warnings()
    try:
        app(prog_name="resnet-tasks")
    except Exception:
        sys.excepthook = _print_traceback  # only now, because typer sets its own
        raise


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback, whose message may quote names of classes and files."""
    echo("".join(traceback.format_exception(kind, error, trace)), err=True, nl=False)


def _show_any_text() -> None:
    """Escape characters that the output encoding lacks, such as bytes of file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


def _escape_warnings() -> None:
    """Escape control characters in Python's warnings, which may quote names of files."""
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda *args, **kwargs: escape_controls(
        format_warning(*args, **kwargs)
    )


if __name__ == "__main__":
    main()
