"""Temporary names next to a file or folder, under which it is written until it is complete.

A name identifies the writing process: `.metrics.json@6f1c02aa-4711-9f3c21ab0.partial`. Two writers
never share one, and the next writer of the result removes what a killed process left behind.

A folder of this kind may hold a set of files that appear together (`file_sets`), with a list of
them, `FILE_LIST`. Files that have taken their final names are removed if others have not.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import time
import uuid
import zlib
from contextlib import suppress
from itertools import count
from pathlib import Path

ABANDONED_SECONDS = 86_400.0
"""Age from which an unfinished result is removed if the state of its process is unknown."""

PREVIOUS_SUFFIX = ".previous"
"""End of the name of a folder's earlier version while a new one takes its place."""

FILE_LIST = ".files.json"
"""List of the files of a set in its unfinished folder: name -> size and time of modification."""

_SUFFIX = ".partial"
_LONGEST_NAME = 180
"""Length of a result's name, in bytes, up to which it is part of the temporary name: file systems
allow 255 bytes."""


def _describe_host() -> str:
    """Return an identifier of the scope in which process ids are unique: boot and container.

    Containers may share a host name and a folder, but not their process ids.
    """
    parts = [platform.node()]
    with suppress(OSError):  # Linux only
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - not a path
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    return " ".join(parts)


_HOST = f"{zlib.crc32(_describe_host().encode()):08x}"
_PROCESS = uuid.uuid4().hex[:8]
"""Random token that distinguishes this process from an earlier one with the same process id."""
_NUMBERS = count()
_UNFINISHED: dict[Path, Path] = {}
"""Temporary path -> path of the result, for results that this process has not finished."""


def create_partial_path(path: Path) -> Path:
    """Return an unused name next to `path`, and clean up what dead writers of `path` left behind.

    Their unfinished files and folders are removed. An earlier folder that was moved aside gets its
    name back if there is no later one. Each call lists the folder of `path`, which is slow for
    thousands of files in one folder.
    """
    name = f".{_shorten_name(path.name)}@"
    leftover = re.compile(
        rf"{re.escape(name)}([0-9a-f]{{8}})-(\d+)-([0-9a-f]+)\.(?:partial|previous)"
    )
    with suppress(OSError):  # the folder may not exist yet
        for file_name in os.listdir(path.parent):  # noqa: PTH208 - 4 times faster for many images
            writer = leftover.fullmatch(file_name)
            if writer and _is_dead(path.with_name(file_name), *writer.groups()):
                if file_name.endswith(PREVIOUS_SUFFIX) and not path.exists():
                    path.with_name(file_name).rename(path)
                else:
                    # Renamed first: if the writer is alive after all, it must not find a partially
                    # deleted result.
                    undo_placing(path.with_name(file_name))
                    unused = path.with_name(_make_name(name))
                    path.with_name(file_name).rename(unused)
                    remove_path(unused)
    partial = path.with_name(_make_name(name))
    _UNFINISHED[partial] = path
    return partial


def release_partial_path(partial: Path) -> None:
    """Declare a result finished or removed, so that `remove_unfinished` ignores it."""
    _UNFINISHED.pop(partial, None)


def remove_unfinished() -> None:
    """Remove all unfinished results of this process, which must not write any of them again.

    A signal may arrive after a context manager has created its folder and before the block that
    removes the folder begins.
    """
    for partial, path in list(_UNFINISHED.items()):
        previous = partial.with_suffix(PREVIOUS_SUFFIX)
        if previous.exists() and not path.exists():
            with suppress(OSError):
                previous.rename(path)
        undo_placing(partial)
        remove_path(partial)
        remove_path(previous)
        release_partial_path(partial)


def undo_placing(partial: Path) -> None:
    """Remove the files of an incomplete set that have already taken their final names.

    The set is complete if no file is left in its folder. A file that was changed since then stays.

    Args:
        partial: Folder of the set; others are ignored.
    """
    try:
        listed: dict[str, list[int]] = json.loads((partial / FILE_LIST).read_bytes())
        if not any((partial / name).exists() for name in listed):
            return
        for name, identity in listed.items():
            placed = partial.with_name(name)  # raises if it is not the name of a file
            with suppress(FileNotFoundError):
                status = placed.lstat()
                if [status.st_size, status.st_mtime_ns] == identity:
                    placed.unlink()
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return  # there is no list, or not one of this module


def _shorten_name(name: str) -> str:
    """Return a name as it is, or a checksum if it would make the temporary name too long."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    return f"{zlib.crc32(encoded):08x}{zlib.adler32(encoded):08x}"


def _make_name(prefix: str) -> str:
    return f"{prefix}{_HOST}-{os.getpid()}-{_PROCESS}{next(_NUMBERS):x}{_SUFFIX}"


def is_partial(path: Path) -> bool:
    """Return whether a path is that of an unfinished result, or of one that is being replaced."""
    return path.name.endswith((_SUFFIX, PREVIOUS_SUFFIX))


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder with its content, as far as that is possible."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # a folder is gone already, or cannot be removed
        path.unlink()


def has_exited(pid: object) -> bool:
    """Return whether a process of this machine has ended; False if that is unknown."""
    # On Windows `os.kill` with signal 0 would send Ctrl-C to the process.
    if os.name == "nt" or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _is_dead(partial: Path, host: str, pid: str, token: str) -> bool:
    """Return whether the process that wrote a partial file or folder has ended."""
    if host == _HOST and int(pid) == os.getpid():
        return not token.startswith(_PROCESS)
    if host == _HOST and os.name != "nt":
        return has_exited(int(pid))
    newest = max(path.lstat().st_mtime for path in (partial, *partial.rglob("*")))
    return newest < time.time() - ABANDONED_SECONDS
