"""Files of a user, opened only where they are regular files, so that no read can block."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO would wait for a writer
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def open_regular_file(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Args:
        path: Path of the file; its name need not be UTF-8.

    Raises:
        FileNotFoundError: If it does not exist.
        OSError: If it is a FIFO, a socket, a device or a folder, or cannot be opened.
    """
    try:
        # The stream keeps the path as its name, which readers such as tifffile need.
        stream = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP, errno.EISDIR):
            raise OSError(_describe_kind(os.stat(path).st_mode)) from None  # noqa: PTH116
        raise
    mode = os.fstat(stream.fileno()).st_mode
    if not stat.S_ISREG(mode):
        stream.close()
        raise OSError(_describe_kind(mode))
    return stream


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | _FLAGS)


def read_regular_file(path: Path) -> bytes:
    """Read a regular file; see `open_regular_file`."""
    with open_regular_file(path) as stream:
        return stream.read()


def _describe_kind(mode: int) -> str:
    names = [name for is_kind, name in _KINDS if is_kind(mode)]
    return f"it is {names[0] if names else 'a special file'}; only regular files are read"
