"""Ctrl-C and SIGTERM: asked to stop, a run finishes its step and writes a checkpoint first."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """The run was asked to stop; its checkpoint is written."""


class StopRequest:
    """Whether a run shall stop: a signal reaches one process, and all of them must know.

    Attributes:
        is_asked: In this process.
        is_agreed: As all processes know since they last told each other.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self.is_agreed = False

    def agree(self, asked: Iterable[bool]) -> bool:
        """Whether any process was asked.

        Args:
            asked: `is_asked` of all processes.
        """
        self.is_agreed = any(asked)
        return self.is_agreed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask to stop, for the duration.

        Raises:
            KeyboardInterrupt: Asked twice: now, without waiting for a step or evaluation to end.
        """

        def ask(_number: int, _frame: FrameType | None) -> None:
            if self.is_asked:
                raise KeyboardInterrupt
            self.is_asked = True

        previous = {}
        try:
            for each in (signal.SIGINT, signal.SIGTERM):
                previous[each] = signal.signal(each, ask)
        except ValueError:
            pass  # Not the main thread: the caller owns the signals.
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)
