"""Lock of a result folder: one process uses it at a time, and a dead process holds no lock."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from resnet_tasks.errors import RunError
from resnet_tasks.files.atomic import make_folder
from resnet_tasks.files.json_encoding import encode_json
from resnet_tasks.files.partial_paths import has_exited

LOCK = ".lock"
OWNER_FILE = ".lock.json"
ORPHAN_SECONDS = 20.0
"""Seconds to wait until the loader processes of a killed run have ended (torch checks every 5)."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the operating system releases the lock when it ends.

    Args:
        folder: Path of the folder; created if it does not exist.

    Raises:
        RunError: If another process uses the folder, or the folder cannot be created.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        _acquire(lock, folder)
    except Timeout:
        raise RunError(
            f"{folder} is in use by {_describe_owner(folder)}; wait until that ends, or stop it "
            "(Ctrl-C; finished work is kept and can be resumed), or choose another --out"
        ) from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written to ({error.strerror}); choose another --out"
        ) from None
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
    try:
        # Only the error message of other processes needs this file: a full disk must not prevent
        # a resume here.
        with suppress(OSError):
            (folder / OWNER_FILE).write_text(encode_json(owner), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            (folder / OWNER_FILE).unlink()
        with suppress(OSError):
            lock.release()


def enter_folder_lock(stack: ExitStack, folder: Path) -> None:
    """Hold `lock_folder` until `stack` closes.

    Args:
        stack: Stack that releases the lock.
        folder: Path of the folder; created if it does not exist.

    Raises:
        RunError: If another process uses the folder, or the folder cannot be created.
    """
    stack.enter_context(lock_folder(folder))


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire()
    except Timeout:
        owner = _read_owner(folder)
        if owner.get("host") != socket.gethostname() or not has_exited(owner.get("pid")):
            raise
        # Loader processes inherit the lock of a killed run, until they notice that it is gone.
        lock.acquire(timeout=ORPHAN_SECONDS)


def _read_owner(folder: Path) -> dict[str, Any]:
    """Return pid, host and start time of the lock's owner; empty if they cannot be read."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _describe_owner(folder: Path) -> str:
    owner = _read_owner(folder)
    if not {"pid", "host", "since"} <= owner.keys():
        return "another process"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
