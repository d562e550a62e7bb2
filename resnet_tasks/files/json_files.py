"""Reading of JSON files, with an error message of one sentence for each way to fail."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import read_file_or_pipe


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If the file is missing, unreadable or not JSON; the message has line and column.
    """
    return parse_json(read_json_bytes(path), path)


def read_json_bytes(path: Path) -> bytes:
    """Read the bytes of a JSON file, or of a pipe that something writes to.

    Raises:
        DataError: If it does not exist, is a folder or a device, or cannot be read.
    """
    try:
        return read_file_or_pipe(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; fix the path, or prepare the data first") from None
    except IsADirectoryError:
        raise DataError(describe_folder(path)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def describe_folder(path: Path) -> str:
    """Return the error message of a folder in place of a JSON file, with the files in it."""
    files = sorted(path.glob("*.json")) or sorted(path.glob("*/*.json"))
    names = ", ".join(file.relative_to(path).as_posix() for file in files[:8])
    return f"{path} is a folder; name a file in it ({names or 'no .json'})"


def parse_json(content: bytes, path: Path) -> Any:
    """Return the content of a JSON file.

    Args:
        content: Bytes of the file.
        path: Path of the file, for the message.

    Raises:
        DataError: If it is not JSON; the message has line and column.
    """
    try:
        with disable_gc():
            return json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "is it complete, and the right file?"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not JSON in UTF-8: {error}; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # includes numbers with thousands of digits
        raise DataError(f"{path} is not JSON: {error}; is it the right file?") from None


@contextmanager
def disable_gc() -> Iterator[None]:
    """Disable garbage collection inside the block.

    Where millions of small objects are created and none is freed, collection only costs time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
