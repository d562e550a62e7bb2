"""Output and questions of commands without rich, which takes long to import."""

from __future__ import annotations

import typer

from resnet_tasks.foreign_text import escape_controls


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text; the control characters of foreign names in it are escaped.

    Args:
        text: Text of one or more lines.
        err: Whether to print to standard error.
        nl: Whether to end the text with a newline.
    """
    typer.echo(escape_controls(text), err=err, nl=nl)


def confirm(question: str, *, abort: bool = False) -> bool:
    """Ask a question that is answered by yes or no; return whether the answer is yes.

    Args:
        question: Question, which may contain foreign names.
        abort: Whether no ends the command.
    """
    return typer.confirm(escape_controls(question), abort=abort)
