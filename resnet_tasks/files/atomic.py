"""Atomic writing of result files and folders: they appear complete or not at all."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from resnet_tasks.errors import RunError

ESCAPED = "escape_undecodable"
"""Name of the codec error handler `escape_undecodable`, for text that may contain file names."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def make_folder(folder: Path) -> None:
    """Create a folder for results and its missing parents; an existing folder stays as it is.

    Raises:
        RunError: If the folder cannot be created, or the path is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"folder {folder} cannot be created ({error.strerror}); choose another --out"
        ) from None


@contextmanager
def open_atomic(path: Path) -> Iterator[TextIO]:
    """Open a text file that appears under its name only when it is complete.

    The text goes to `<name>.partial` next to it, which is renamed at the end of the block and
    removed after an error.

    Raises:
        RunError: If the disk is full, or the folder cannot be written to.
    """
    partial_path = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_path.open("w", encoding="utf-8", errors=ESCAPED) as stream:
            yield stream
            stream.flush()
            # Without this a power failure after the rename could leave an empty file.
            os.fsync(stream.fileno())
        partial_path.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial_path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise make_write_error(path, error) from None
        raise


@contextmanager
def remove_files_on_error(paths: Sequence[Path]) -> Iterator[None]:
    """Remove new files, and the folders created for them, if the block raises.

    Args:
        paths: Paths of files that do not exist yet.
    """
    folders = [parent for path in paths for parent in path.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for folder in dict.fromkeys(folders):
            with suppress(OSError):  # it was never created, or another process uses it
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old text or the new text, never a part.

    Raises:
        RunError: If the disk is full, or the folder cannot be written to.
    """
    with open_atomic(path) as stream:
        stream.write(text)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON with `write_text`."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: object, *, indent: int | None = None, is_lossless: bool = False) -> str:
    r"""Return a value as JSON that encodes to UTF-8.

    File names are not always UTF-8. Python represents the undecodable bytes as lone surrogates,
    which UTF-8 cannot encode. They are written as `\xe9`, as `ls` shows them.

    Args:
        value: Value of JSON-compatible types.
        indent: Spaces per nesting level, as for `json.dumps`; None: one line.
        is_lossless: Whether to write `\udce9` instead, which Python reads back and stricter
            readers reject.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isascii():
        return text
    if is_lossless:
        return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    # A backslash inside a JSON string must itself be escaped.
    return _SURROGATE.sub(lambda match: "\\" + _escape(match[0]), text)


def escape_undecodable(error: UnicodeError) -> tuple[str, int]:
    r"""Escape characters that an encoding lacks; an undecodable byte of a file name becomes `\xe9`.

    Args:
        error: Error that the codec reports.

    Returns:
        The replacement text, and the position after the escaped characters, as `codecs` expects.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's surrogate for a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode()


codecs.register_error(ESCAPED, escape_undecodable)


def make_write_error(path: Path, error: Exception) -> RunError:
    """Return the error for a file that cannot be written."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason"])[0]
    return RunError(
        f"{path} cannot be written ({reason}); free space on that disk, or make sure that the "
        "folder exists and is writable"
    )
