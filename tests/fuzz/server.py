"""Process that imports the package with coverage counters, and forks a process for each target.

The import takes as long as fuzzing a target, and libFuzzer ends the process that it runs in. Each
line of the standard input describes a job; the answer to it is the exit status of its process.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import atheris

with atheris.instrument_imports(
    include=["resnet_tasks", "data_tools"], enable_loader_override=False
):
    from tests.fuzz.targets.table import TARGETS

from tests.fuzz.target import Target

MAX_SECONDS = 10
"""Seconds after which an input hangs."""
MAX_MEGABYTES = 2048
"""Memory of the process, of which the imports take about 500 MB."""
MAX_FINDINGS = 20


def main() -> None:
    """Fork a process for each job until the standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        process = os.fork()
        if not process:
            fuzz(**json.loads(line))
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def fuzz(name: str, seconds: int, seed: int, out: str) -> None:
    """Fuzz one target, and end this process.

    Args:
        name: Name of the target.
        seconds: Time to spend.
        seed: Seed of all random numbers.
        out: Folder for the log, the corpus, and inputs that are findings.
    """
    target, folder = TARGETS[name], Path(out)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    corpus = folder / "corpus"
    corpus.mkdir()
    for file_name, content in target.read_corpus().items():
        (corpus / file_name).write_bytes(content)
    memory = Path("/dev/shm")
    work = tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None)
    arguments = [
        *("fuzz", str(corpus), f"-seed={seed}", f"-max_total_time={seconds}"),
        *(f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={MAX_MEGABYTES}", "-print_final_stats=1"),
        *(f"-max_len={target.max_bytes}", f"-artifact_prefix={folder}/", "-close_fd_mask=3"),
        *("-len_control=0", "-verbosity=1"),
    ]
    (folder / "work").write_text(work)
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = work
    os.chdir(work)
    warnings.simplefilter("error")
    record = Recorder(target, target.prepare(Path(work)), folder)
    options = {} if target.damage is None else {"custom_mutator": make_mutator(target.damage)}
    atheris.Setup(arguments, record, **options)
    atheris.Fuzz()


class Recorder:
    """Function under fuzzing, which records each kind of unexpected exception once.

    Args:
        target: Reader under fuzzing.
        read: Its function.
        folder: Folder for findings.
    """

    def __init__(self, target: Target, read: Callable[[bytes], object], folder: Path) -> None:
        self._errors = target.errors
        self._read = read
        self._folder = folder
        self._kinds: set[tuple[Any, ...]] = set()
        self._hang: TextIO = (folder / "hang.txt").open("w")

    def __call__(self, content: bytes) -> None:
        """Read the content."""
        faulthandler.dump_traceback_later(MAX_SECONDS - 1, file=self._hang)
        try:
            self._read(content)
        except self._errors:
            pass
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            self._record(error, content)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _record(self, error: BaseException, content: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/site-packages/" not in frame.filename]
        last = (ours or frames)[-1]
        kind = (type(error), last.filename, last.lineno)
        if kind in self._kinds or len(self._kinds) >= MAX_FINDINGS:
            return
        self._kinds.add(kind)
        number = len(self._kinds)
        (self._folder / f"finding-{number}").write_bytes(content)
        text = "".join(traceback.format_exception(error)[-12:])[-3000:]
        (self._folder / f"finding-{number}.txt").write_text(text, "utf-8", "backslashreplace")


def make_mutator(
    damage: Callable[[bytes, random.Random], bytes],
) -> Callable[[bytes, int, int], bytes]:
    """Return libFuzzer's mutator, which keeps the form of the content three times of four."""

    def mutate(content: bytes, max_bytes: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.75:
            try:
                return damage(bytes(content), draw)[:max_bytes]
            except Exception:  # noqa: BLE001 - the content no longer has that form
                pass
        return bytes(atheris.Mutate(content, max_bytes))

    return mutate


if __name__ == "__main__":
    main()
