"""Opening of user-supplied paths only if they are regular files, so that no read can block.

Text files such as lists may also be pipes (`<(find ...)`), which are read until the writer ends.
"""

from __future__ import annotations

import errno
import os
import select
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

_CHUNK = 1 << 20


def open_regular_file(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Args:
        path: Path of the file, whose name need not be valid UTF-8.

    Raises:
        FileNotFoundError: If it does not exist.
        OSError: If it is a FIFO, a socket, a device or a folder, has an invalid name, or cannot be
            opened.
    """
    # `open` rather than `os.fdopen`: readers such as tifffile need the path as name of the stream.
    stream = _open(path)
    mode = os.fstat(stream.fileno()).st_mode
    if not stat.S_ISREG(mode):
        stream.close()
        raise OSError(_describe_kind(mode, "only regular files are read"))
    return stream


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", opener=_open_without_waiting)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP, errno.EISDIR):
            mode = os.stat(path).st_mode  # noqa: PTH116
            raise OSError(_describe_kind(mode, "only regular files are read")) from None
        raise
    except ValueError as error:  # a zero byte, or a character that cannot be encoded
        raise OSError(f"no file can have this name ({error})") from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | _FLAGS)


def require_regular_file(path: Path) -> None:
    """Require that a library that opens the path will not block; see `open_regular_file`."""
    open_regular_file(path).close()


def read_regular_file(path: Path) -> bytes:
    """Return the content of a regular file; see `open_regular_file`."""
    with open_regular_file(path) as stream:
        return stream.read()


def read_file_or_pipe(path: Path, max_bytes: int | None = None) -> bytes:
    """Return the content of a regular file, or of a pipe until its writers close it.

    Args:
        path: Path of the file.
        max_bytes: Maximum number of bytes; None: no limit.

    Raises:
        FileNotFoundError: If it does not exist.
        IsADirectoryError: If it is a folder.
        OSError: If it is a socket or a device, exceeds `max_bytes`, or is a pipe without content.
    """
    if os.path.isdir(path):  # noqa: PTH112 - returns False for an invalid name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with _open(path) as stream:
        descriptor = stream.fileno()
        status = os.fstat(descriptor)
        mode = status.st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise OSError(_describe_kind(mode, "only regular files and pipes are read"))
        chunks: list[bytes] = []
        num_bytes = 0
        # A regular file is read at once, and its content not copied.
        most = status.st_size if max_bytes is None else min(status.st_size, max_bytes)
        while chunk := _read_chunk(descriptor, _CHUNK if chunks else max(_CHUNK, most + 1)):
            chunks.append(chunk)
            num_bytes += len(chunk)
            if max_bytes is not None and num_bytes > max_bytes:
                raise OSError(f"it has more than {max_bytes:,} bytes")
    if stat.S_ISFIFO(mode) and not chunks:
        raise OSError("it is a pipe that nothing was written to")
    return b"".join(chunks)


def _read_chunk(descriptor: int, most: int) -> bytes:
    """Return at most `most` next bytes; empty at the end of a file or without writer of a pipe."""
    while True:
        try:
            return os.read(descriptor, most)
        except BlockingIOError:  # the pipe has a writer that has not written yet
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            waiting.poll()


def _describe_kind(mode: int, allowed: str) -> str:
    names = [name for is_kind, name in _KINDS if is_kind(mode)]
    return f"it is {names[0] if names else 'a special file'}; {allowed}"
