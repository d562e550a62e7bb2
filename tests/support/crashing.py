"""Crashes of atomic writers at every step: `python -m tests.support.crashing KIND FOLDER`.

An audit hook sees every file that is opened, renamed or removed, whatever code does it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.files.atomic import (
    open_atomic,
    open_together,
    remove_files_on_error,
    replace_folder,
)
from resnet_tasks.files.mapped_columns import open_columns, write_columns

STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir")
"""Audit events that count as a step."""
LONG = 300_000
"""Characters of a content: more than a file buffer holds, and more than `LIMIT`."""
CRASHED = 3
"""Exit status of a child process that an exception stopped."""
LIMIT = 100_000
"""Maximum size of a file in the mode `limit`, bytes."""


@dataclass(frozen=True)
class Outcome:
    """Observations after a crash and after the next complete write.

    Attributes:
        error: Name of the exception's class and its message; empty without an exception.
        content: Content that a reader finds after the crash; None: no result.
        names: Names in the folder after the crash.
        next_names: Names in the folder after the next write.
        next_content: Content after the next write.
    """

    error: str
    content: str | None
    names: list[str]
    next_names: list[str]
    next_content: str | None


class Crash:
    """Audit hook that crashes this process at one step below a folder.

    Attributes:
        crash: Function that kills the process or raises an exception.
        folder: Path of the folder.
        steps_left: Number of steps before the crash; None: no crash, or none any more.
        has_crashed: Whether the crash has taken place in the last child process.
    """

    def __init__(self) -> None:
        self.crash: Callable[[], None] = kill
        self.folder = ""
        self.steps_left: int | None = None
        self.has_crashed = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count the steps below the folder, and crash before the last one."""
        if self.steps_left is None or event not in STEPS:
            return
        path = Path(str(arguments[0]))
        if path.is_absolute() and not path.is_relative_to(self.folder):
            return  # a relative name, or a number, belongs to a folder that `shutil.rmtree` removes
        self.steps_left -= 1
        if self.steps_left < 0:
            self.steps_left = None
            self.crash()


def write_text_file(path: Path, content: str) -> None:
    """Write a text file."""
    with open_atomic(path) as stream:
        stream.write(content * LONG)


def read_text_file(path: Path) -> str:
    """Return the letter that the file consists of."""
    (letter,) = set(path.read_text(encoding="utf-8"))
    assert path.stat().st_size == LONG
    return letter


def write_column_file(path: Path, content: str) -> None:
    """Write a file of mapped columns."""
    write_columns(path, {"letters": np.full(LONG, ord(content), np.uint8)}, {})


def read_column_file(path: Path) -> str:
    """Return the letter that the column consists of, after verifying the checksum."""
    (letter,) = set(open_columns(path)["letters"].tolist())
    return chr(letter)


def write_folder(path: Path, content: str, *, overwrite: bool = True) -> None:
    """Write a folder with two files."""
    with replace_folder(path, overwrite=overwrite) as partial:
        for name in ("a", "b"):
            (partial / name).write_text(content * LONG, encoding="utf-8")


def write_new_folder(path: Path, content: str) -> None:
    """Write a folder that must not exist."""
    write_folder(path, content, overwrite=False)


def read_folder(path: Path) -> str:
    """Return the letter that all files of the folder consist of."""
    texts = [(path / name).read_text(encoding="utf-8") for name in ("a", "b")]
    (letter,) = set("".join(texts))
    assert len("".join(texts)) == 2 * LONG
    return letter


def write_set(path: Path, content: str) -> None:
    """Write a folder with a set of two files, which appear together."""
    paths = (path / "a", path / "b")
    with remove_files_on_error(paths), open_together(paths) as streams:
        for stream in streams:
            stream.write(content * LONG)


def write_checkpoint(path: Path, content: str) -> None:
    """Write a checkpoint."""
    import torch  # noqa: PLC0415 - seconds that the other kinds do not need

    torch.set_num_threads(1)  # a forked process has no other threads

    from resnet_tasks.run_folder.checkpoint import save_checkpoint  # noqa: PLC0415

    weights = {"letters": torch.full((LONG,), ord(content), dtype=torch.uint8)}
    state = {
        "position": {},
        "optimizer": {"state": {}, "param_groups": []},
        "batches_per_epoch": 1,
        "threads": 1,
        "settings": {"letter": content},
        "scaler": {},
    }
    save_checkpoint(path, model=weights, state=state)


def read_checkpoint(path: Path) -> str:
    """Return the letter of a checkpoint, or of the previous one that replaces it."""
    from resnet_tasks.errors import RunError  # noqa: PLC0415
    from resnet_tasks.run_folder.checkpoint import load_checkpoint  # noqa: PLC0415

    try:
        weights, _, state = load_checkpoint(path)
    except RunError as error:
        raise FileNotFoundError from error
    (letter,) = set(weights["letters"].tolist())
    assert chr(letter) == state["settings"]["letter"]
    return chr(letter)


KINDS = {
    "text": (write_text_file, read_text_file, True),
    "columns": (write_column_file, read_column_file, True),
    "folder": (write_folder, read_folder, True),
    "new-folder": (write_new_folder, read_folder, False),
    "set": (write_set, read_folder, False),
    "checkpoint": (write_checkpoint, read_checkpoint, True),
}
"""Kind -> writer, reader, and whether an earlier result with the content `o` exists."""


def kill() -> None:
    """Kill this process as the operating system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    """Raise the exception of Ctrl-C."""
    raise KeyboardInterrupt


def fill_disk() -> None:
    """Raise the exception of a full disk."""
    raise OSError(28, "No space left on device")


def deny() -> None:
    """Raise the exception of a folder that may not be written to."""
    raise PermissionError(13, "Permission denied")


CRASHES = {
    "kill": kill,
    "interrupt": interrupt,
    "full": fill_disk,
    "denied": deny,
    "limit": fill_disk,
}
"""Mode -> crash. In the mode `limit` the operating system itself refuses to write a large file."""


def read(reader: Callable[[Path], str], path: Path) -> str | None:
    """Return the content that a reader finds; None: no result."""
    try:
        return reader(path)
    except FileNotFoundError:
        return None


def list_names(folder: Path) -> list[str]:
    """Return the sorted names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def write_and_crash(
    writer: Callable[[Path, str], None], path: Path, hook: Crash, step: int | None
) -> str:
    """Write the content `n` in a child process that crashes before a step; return the error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        error = ""
        hook.folder, hook.steps_left = str(path.parent), step
        try:
            writer(path, "n")
        except BaseException as caught:  # noqa: BLE001 - also KeyboardInterrupt
            error = f"{type(caught).__name__}: {caught}"
        has_crashed, hook.steps_left = hook.steps_left is None, None
        os.write(writing, error.encode())
        os._exit(CRASHED if has_crashed else 0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    hook.has_crashed = status != 0
    assert status in (0, signal.SIGKILL, CRASHED << 8)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode()


def crash_at_every_step(kind: str, mode: str, root: Path, hook: Crash) -> list[Outcome]:
    """Crash a writer before its first step, before its second and so on, until it finishes."""
    writer, reader, has_old = KINDS[kind]
    outcomes: list[Outcome] = []
    for step in count():
        folder = root / mode / str(step)
        folder.mkdir(parents=True)
        path = folder / "result"
        if has_old:
            writer(path, "o")
        limit = LIMIT if mode == "limit" else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        error = write_and_crash(writer, path, hook, None if mode == "limit" else step)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        content, names = read(reader, path), list_names(folder)
        if has_old or content is None:
            writer(path, "x")
        outcomes.append(Outcome(error, content, names, list_names(folder), read(reader, path)))
        if not hook.has_crashed or mode == "limit":
            return outcomes
    raise AssertionError


def main(kind: str, root: Path) -> None:
    """Crash a writer in every way at every step; print mode -> outcomes as JSON."""
    hook = Crash()
    sys.addaudithook(hook)
    outcomes = {}
    for mode, crash in CRASHES.items():
        hook.crash = crash
        outcomes[mode] = [asdict(each) for each in crash_at_every_step(kind, mode, root, hook)]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
