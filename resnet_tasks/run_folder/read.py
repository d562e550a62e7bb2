"""Reading of the files of a run folder through their schemas; each fault is one sentence."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import FormatVersionError, RunError, get_first_line
from resnet_tasks.files.json_files import TOO_DEEP, describe_long_number, require_shallow
from resnet_tasks.files.regular_files import read_file_or_pipe
from resnet_tasks.number_formats import format_bytes
from resnet_tasks.run_folder.files import VERSION_KEY, RunFile

NOT_JSON = (msgspec.MsgspecError, ValueError, RecursionError)
"""Errors of decoding JSON that is damaged, is not UTF-8 or does not fit its schema."""
MAX_VERSION = 9999
"""Maximum format version; larger numbers are damage."""
_MARK = b"\xef\xbb\xbf"


def read_object(path: Path, file: RunFile, remedy: str = "") -> dict[str, Any]:
    """Return the JSON object of a file, in its current format version.

    Args:
        path: Path of the file.
        file: Description of the file with its schema.
        remedy: Advice for the message; default: that of the description.

    Raises:
        RunError: If the file cannot be read, is damaged, does not fit the schema or was written by
            a newer version.
    """
    return check_object(_decode_json(path, file, remedy), path, file, remedy)


def read_list(path: Path, file: RunFile) -> list[dict[str, Any]]:
    """Return the entries of a file that contains a list of objects.

    Raises:
        RunError: If the file cannot be read, is damaged or does not fit the schema.
    """
    value: list[dict[str, Any]] = _decode_json(path, file, "")
    try:
        msgspec.convert(value, type=file.schema)
    except NOT_JSON as error:
        raise make_damage_error(path, file, describe_schema_error(error)) from None
    return value


def parse_object(content: str, path: Path, file: RunFile) -> dict[str, Any]:
    """Return the JSON object in a text that is part of a file; see `read_object`.

    Args:
        content: Text in JSON.
        path: Path of the file, for the message.
        file: Description of the file with the schema of the object.

    Raises:
        RunError: If it is not JSON, does not fit the schema or was written by a newer version.
    """
    try:
        value = msgspec.json.decode(content)
        require_shallow(content)
    except NOT_JSON as error:
        raise make_damage_error(path, file, describe_json_error(content, error)) from None
    return check_object(value, path, file)


def read_arrays(path: Path, file: RunFile, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return arrays of an NPZ file.

    Args:
        path: Path of the file.
        file: Description of the file.
        names: Names of the arrays.

    Raises:
        RunError: If the file cannot be read, or lacks an array.
    """
    content = read_content(path, file)
    if not (content.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(content))):
        # NumPy takes other content for a pickle, and advises to load it unsafely.
        reason = "it is not an NPZ file" if content else "it is empty"
        raise make_damage_error(path, file, reason)
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        return {name: _require_array(name, archive[name]) for name in names}
    except Exception as error:  # noqa: BLE001 - damaged archives raise errors of many classes
        if isinstance(error, KeyError):
            reason = f"it has no array {error.args[0]!r}"
        elif "allow_pickle" in str(error):
            reason = "it has Python objects, which are never loaded, in place of arrays"
        else:
            reason = get_first_line(error)
        raise make_damage_error(path, file, reason) from None


def _require_array(name: str, value: object) -> NDArray[Any]:
    """Require that a file in an NPZ file is an array, whose text is valid.

    NumPy turns damaged text into a `str` with impossible characters, which crashes later code.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name!r} is not an array")
    if value.dtype.kind == "U":
        native = value.astype(value.dtype.newbyteorder("="))
        if np.frombuffer(native.tobytes(), np.uint32).max(initial=0) > sys.maxunicode:
            raise ValueError(f"{name!r} is not text")
    return value


def _decode_json(path: Path, file: RunFile, remedy: str) -> Any:
    """Return the content of a JSON file; `remedy` replaces that of `file` unless it is empty."""
    content = read_content(path, file, remedy).removeprefix(_MARK)
    try:
        value = msgspec.json.decode(content)
        require_shallow(content)
        return value
    except NOT_JSON as error:
        raise make_damage_error(path, file, describe_json_error(content, error), remedy) from None


def read_content(path: Path, file: RunFile, remedy: str = "") -> bytes:
    """Return the bytes of a file.

    Raises:
        RunError: If it does not exist, is a folder, is larger than any such file, or is unreadable.
    """
    remedy = remedy or file.remedy
    try:
        if path.is_file() and path.stat().st_size > file.max_bytes:
            limit = format_bytes(file.max_bytes)
            raise make_damage_error(path, file, f"it is larger than {limit}", remedy)
        return read_file_or_pipe(path)
    except OSError as error:
        raise make_read_error(path, file, error, remedy) from None


def check_object(value: object, path: Path, file: RunFile, remedy: str = "") -> dict[str, Any]:
    """Return the value of a file after checking version and schema.

    Args:
        value: Decoded content of the file.
        path: Path of the file, for the message.
        file: Description of the file with its schema.
        remedy: Advice for the message; default: that of the description.

    Raises:
        RunError: If the value has another type or a newer version, or does not fit the schema.
    """
    if not isinstance(value, dict):
        reason = f"expected an object, got {_describe_type(value)}"
        raise make_damage_error(path, file, reason, remedy)
    value = _migrate(value, path, file, remedy)
    try:
        msgspec.convert(value, type=file.schema)
    except NOT_JSON as error:
        raise make_damage_error(path, file, describe_schema_error(error), remedy) from None
    return value


def require_known_version(version: object, path: Path, file: RunFile, remedy: str = "") -> int:
    """Return the format version of a file.

    Raises:
        FormatVersionError: If it is newer than those that this package knows.
        RunError: If it is not a version number.
    """
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        reason = (
            f"{file.version_key or VERSION_KEY} must be a whole number from 1 to {MAX_VERSION}, "
            f"got {version!r:.40}"
        )
        raise make_damage_error(path, file, reason, remedy)
    if version > file.version:
        raise FormatVersionError(
            f"{path} was written by a newer version of resnet_tasks (it has format version "
            f"{version}, this version reads up to {file.version}); update resnet_tasks",
            is_newer=True,
        )
    return version


def _migrate(value: dict[str, Any], path: Path, file: RunFile, remedy: str) -> dict[str, Any]:
    """Return a value in the current format version of its file."""
    version = require_known_version(value.get(file.version_key, 1), path, file, remedy)
    while version < file.version:
        migration = file.migrations.get(version)
        if migration is None:
            raise FormatVersionError(
                f"{path} was written by an older version of resnet_tasks (it has format version "
                f"{version}, this version reads {file.version}); {remedy or file.remedy}",
                is_newer=False,
            )
        value = migration(value)
        version += 1
    return value


def read_lines(path: Path, file: RunFile) -> list[dict[str, Any]]:
    """Return the objects of a file with one JSON object per line, all of which must be valid.

    Raises:
        RunError: If the file cannot be read, or a line is damaged.
    """
    values = []
    for number, line in enumerate(read_content(path, file).splitlines(), start=1):
        try:
            values.append(decode_line(line, file.schema))
        except ValueError as error:
            raise make_damage_error(path, file, f"line {number}: {error}") from None
    return values


def decode_line(line: bytes | str, schema: Any, *, accept_nan: bool = False) -> dict[str, Any]:
    """Return the JSON object of a line.

    Args:
        line: Line of a file with one JSON object per line.
        schema: Type that the object must have.
        accept_nan: Whether to read `NaN` and `Infinity`, which earlier versions wrote as losses.

    Raises:
        ValueError: If the line is incomplete or does not fit the schema; the message has the
            reason.
    """
    try:
        text = line.decode() if isinstance(line, bytes) else line
        value = json.loads(text) if accept_nan else msgspec.json.decode(text)
        require_shallow(line)
    except NOT_JSON as error:
        raise ValueError(describe_json_error(line, error)) from None
    check_line(value, schema)
    return dict(value)


def check_line(value: object, schema: Any) -> None:
    """Check the decoded object of a line.

    Raises:
        ValueError: If it does not fit the schema; the message has the reason.
    """
    try:
        msgspec.convert(value, type=schema)
    except NOT_JSON as error:
        raise ValueError(describe_schema_error(error)) from None


def make_damage_error(path: Path, file: RunFile, reason: str, remedy: str = "") -> RunError:
    """Return the error for a damaged file.

    Args:
        path: Path of the file.
        file: Description of the file.
        reason: Damage in a few words.
        remedy: Advice; default: that of the description.
    """
    return RunError(f"{path} is damaged ({reason}); {remedy or file.remedy}")


def make_read_error(path: Path, file: RunFile, error: OSError, remedy: str = "") -> RunError:
    """Return the error for a file that cannot be opened; `remedy` replaces that of `file`."""
    if isinstance(error, IsADirectoryError) or path.is_dir():
        return make_folder_error(path, file, remedy)
    remedy = remedy or file.remedy
    if isinstance(error, FileNotFoundError):
        return RunError(f"{path} does not exist; {remedy}")
    return RunError(f"{path} cannot be read ({error.strerror or error}); {remedy}")


def make_folder_error(path: Path, file: RunFile, remedy: str = "") -> RunError:
    """Return the error for a folder in place of a file; `remedy` replaces that of `file`."""
    return RunError(f"{path} is a folder in place of a file; {remedy or file.remedy}")


def describe_json_error(content: bytes | str, error: Exception) -> str:
    """Describe why content is not JSON that fits its schema, with line and column."""
    if isinstance(error, msgspec.ValidationError):
        return describe_schema_error(error)
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if not content.strip():
        return "it is empty"
    try:
        text = content.decode() if isinstance(content, bytes) else content
        json.loads(text, parse_constant=_reject_constant)
    except json.JSONDecodeError as json_error:
        place = f"line {json_error.lineno}, column {json_error.colno}"
        return f"it is not JSON: {json_error.msg.lower().removesuffix(' at')} at {place}"
    except UnicodeDecodeError:
        return "it is not text in UTF-8"
    except RecursionError:
        return TOO_DEEP
    except ValueError as value_error:
        is_constant = isinstance(value_error, _ConstantError)
        return f"it is not JSON: {value_error}" if is_constant else describe_long_number()
    return f"it is not JSON: {get_first_line(error).removeprefix('JSON is malformed: ')}"


def describe_schema_error(error: Exception) -> str:
    """Describe a value that does not fit a schema, such as "expected int, got str at epoch"."""
    text, _, place = get_first_line(error).replace("`", "").partition(" - at ")
    text = f"{text[:1].lower()}{text[1:]}".replace("object missing required field", "missing key")
    place = place.removeprefix("$").removeprefix(".")
    return f"{text} at {place}" if place else text


class _ConstantError(ValueError):
    """A number that JSON does not have, such as NaN."""


def _reject_constant(name: str) -> float:
    raise _ConstantError(f"{name} is not allowed")


def _describe_type(value: object) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
