"""Ctrl-C and SIGTERM: asked to stop, a run finishes its step and writes a checkpoint first."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


class TrainingStopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """The run was asked to stop; its checkpoint is written."""


class StopRequest:
    """Whether a run shall stop: a signal reaches one process, and all of them must know.

    Attributes:
        is_requested: In this process.
        is_confirmed: As all processes know since they last told each other.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self.is_confirmed = False

    def agree(self, requests: Iterable[bool]) -> bool:
        """Whether any process was asked.

        Args:
            requests: `is_asked` of all processes.
        """
        self.is_confirmed = any(requests)
        return self.is_confirmed

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask to stop, for the duration.

        Raises:
            KeyboardInterrupt: Asked twice: now, without waiting for a step or evaluation to end.
        """

        def request_stop(_number: int, _frame: FrameType | None) -> None:
            if self.is_requested:
                raise KeyboardInterrupt
            self.is_requested = True

        previous = {}
        try:
            for signal_number in (signal.SIGINT, signal.SIGTERM):
                previous[signal_number] = signal.signal(signal_number, request_stop)
        except ValueError:
            pass  # Not the main thread: the caller owns the signals.
        try:
            yield
        finally:
            for signal_number, handler in previous.items():
                signal.signal(signal_number, handler)
