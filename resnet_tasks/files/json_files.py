"""Reading of JSON files, with an error message of one sentence for each way to fail."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import read_file_or_pipe

MAX_DEPTH = 100
"""Maximum number of nested lists and objects; the files that this package reads have up to 10."""
TOO_DEEP = f"its values are nested more than {MAX_DEPTH} levels deep"
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_OTHER_BYTES = bytes(set(range(256)) - set(b'[]{}"'))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If the file is missing, unreadable or not JSON; the message has line and column.
    """
    return parse_json(read_json_bytes(path), path)


def read_configuration(path: Path) -> dict[str, Any]:
    """Return the JSON object of a configuration file next to weights; empty if there is no file.

    Raises:
        DataError: If the file is unreadable, not JSON or not an object.
    """
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} must contain a JSON object; fix or remove it")
    return value


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
            value = json.loads(content)
        require_shallow(content)
        return value
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "is it complete, and the right file?"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not JSON in UTF-8: {error}; save it as UTF-8") from None
    except RecursionError:
        raise DataError(f"{path} cannot be read: {TOO_DEEP}; is it the right file?") from None
    except ValueError:
        raise DataError(
            f"{path} cannot be read: {describe_long_number()}; is it the right file?"
        ) from None


def describe_long_number() -> str:
    """Describe the only fault of valid JSON in UTF-8 that `json` reports as a `ValueError`."""
    return f"it has a number of more than {sys.get_int_max_str_digits():,} digits"


def require_shallow(content: bytes | str) -> None:
    """Require that JSON is nested at most `MAX_DEPTH` levels deep.

    Without this limit, later code that follows the nesting could exhaust the interpreter's stack.
    The check counts brackets, which takes 7 % of the time of decoding, and 25 % if there are
    backslashes.

    Args:
        content: Text that has been decoded as JSON, and is therefore valid.

    Raises:
        RecursionError: If it is nested more deeply. JSON decoders raise the same error at the end
            of the stack.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    if content.count(b"[") + content.count(b"{") <= MAX_DEPTH:
        return
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        content = content.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    if b"\\" in content:
        content = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Only brackets and the quotes around strings are left. An adjacent pair of quotes is an empty
    # string or a boundary between two strings, so that removing it does not change what is inside.
    marks = content.translate(_AS_LISTS, _OTHER_BYTES).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # removes the innermost level
    if brackets:
        raise RecursionError(TOO_DEEP)


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
