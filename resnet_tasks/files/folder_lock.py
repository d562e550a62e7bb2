"""A folder of results belongs to one process at a time, and to none that is dead."""

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

LOCK = ".lock"
OWNER_FILE = ".lock.json"
ORPHAN_SECONDS = 20.0
"""Seconds in which the loader processes of a killed run end (torch looks every 5)."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps a folder for this process; the system lets go of it when the process ends.

    Args:
        folder: Is made where there is none.

    Raises:
        RunError: If another process works in it, or it cannot be made.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        _acquire(lock, folder)
    except Timeout:
        raise RunError(
            f"{folder} is in use by {_describe_owner(folder)}; wait until that ends, or stop it "
            "(Ctrl-C; what is done stays and can be gone on with), or choose another --out"
        ) from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written to ({error.strerror}); choose another --out"
        ) from None
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
    try:
        # Only the message to others needs it: a full disk must not stop a resume here.
        with suppress(OSError):
            (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            (folder / OWNER_FILE).unlink()
        with suppress(OSError):
            lock.release()


def enter_folder_lock(stack: ExitStack, folder: Path) -> None:
    """`in_use` until `stack` ends.

    Raises:
        RunError: If another process works in the folder, or it cannot be made.
    """
    stack.enter_context(lock_folder(folder))


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire()
    except Timeout:
        owner = _read_owner(folder)
        if owner.get("host") != socket.gethostname() or not _has_exited(owner.get("pid")):
            raise
        # Loader processes of a killed run share its lock for the seconds until they notice.
        lock.acquire(timeout=ORPHAN_SECONDS)


def _read_owner(folder: Path) -> dict[str, Any]:
    """What the holder wrote of itself; empty where that cannot be read."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _has_exited(pid: object) -> bool:
    """Whether a process of this machine has ended; False where that cannot be known."""
    if os.name == "nt" or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _describe_owner(folder: Path) -> str:
    owner = _read_owner(folder)
    if not {"pid", "host", "since"} <= owner.keys():
        return "another process"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
