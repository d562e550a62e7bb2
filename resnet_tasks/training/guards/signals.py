"""Handling of Ctrl-C and SIGTERM: a run finishes its step and writes a checkpoint, then stops."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


class TrainingStopped(Exception):  # noqa: N818  # not an error: the user requested it
    """Signal that a run has stopped on request, after its checkpoint was written."""


class StopRequest:
    """Request to stop a run, which processes exchange because a signal may reach only one of them.

    Attributes:
        is_requested: Whether this process received a signal.
        is_confirmed: Whether any process had received a signal at the last exchange.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self.is_confirmed = False

    def agree(self, requests: Iterable[bool]) -> bool:
        """Set `is_confirmed` to whether any process received a signal, and return it.

        Args:
            requests: `is_requested` of all processes.
        """
        self.is_confirmed = any(requests)
        return self.is_confirmed

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Treat Ctrl-C and SIGTERM inside the block as a request to stop.

        Raises:
            KeyboardInterrupt: If a second signal arrives; it does not wait for a step or
                evaluation to end.
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
            pass  # Python allows handlers in the main thread only; here the caller owns the signals
        try:
            yield
        finally:
            for signal_number, handler in previous.items():
                signal.signal(signal_number, handler)
