"""Files and folders of results: written whole or not at all."""

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
"""Name of the error handler `escape_undecodable`, for text that may hold names of files."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def make_folder(folder: Path) -> None:
    """Makes a folder for results, and those above it, where there is none.

    Raises:
        RunError: If it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"folder {folder} cannot be made ({error.strerror}); choose another --out"
        ) from None


@contextmanager
def open_atomic(path: Path) -> Iterator[TextIO]:
    """A file to write to piece by piece: it appears under its name when all of it is there.

    Raises:
        RunError: If the disk is full, or the folder cannot be written to.
    """
    partial_path = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_path.open("w", encoding="utf-8", errors=ESCAPED) as stream:
            yield stream
            stream.flush()
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
    """Files that are not there yet: what ends early leaves none of them, nor folders for them."""
    folders = [parent for path in paths for parent in path.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for folder in dict.fromkeys(folders):
            with suppress(OSError):  # it was not made, or another process uses it
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new one, never a part.

    Raises:
        RunError: If the disk is full, or the folder cannot be written to.
    """
    with open_atomic(path) as stream:
        stream.write(text)


def write_json(path: Path, value: object) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: object, *, indent: int | None = None, is_lossless: bool = False) -> str:
    r"""Return a value as JSON that encodes to UTF-8.

    File names need not be UTF-8: Python holds their other bytes as lone surrogates, which text in
    UTF-8 cannot hold. They are written as `\xe9`, as `ls` shows them.

    Args:
        value: Plain values.
        indent: As in `json.dumps`.
        is_lossless: Write `\udce9` instead, which Python reads back and stricter readers refuse.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isascii():
        return text
    if is_lossless:
        return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    # In JSON a backslash is written twice.
    return _SURROGATE.sub(lambda match: "\\" + _escape(match[0]), text)


def escape_undecodable(error: UnicodeError) -> tuple[str, int]:
    r"""Escape what an encoding lacks: a byte of a file name becomes `\xe9`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode()


codecs.register_error(ESCAPED, escape_undecodable)


def make_write_error(path: Path, error: Exception) -> RunError:
    """The sentence for a file that cannot be written."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason"])[0]
    return RunError(
        f"{path} cannot be written ({reason}); free space on that disk, or see that the folder is "
        "there and may be written to"
    )
