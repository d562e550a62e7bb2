"""Handling of signals such as Ctrl-C, and the request to a run to stop after its step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def handle_signals(names: Iterable[str], handler: Callable[[int], None]) -> Iterator[None]:
    """Call a function when a signal arrives inside the block.

    Python allows signal handlers in the main thread only. In another thread the block changes
    nothing: the signals belong to the caller. At the end, handlers that were replaced inside the
    block stay.

    Args:
        names: Names of the signals, such as `SIGINT`; a system may lack some of them.
        handler: Function that takes the number of the signal.
    """
    previous = {}

    def handle(number: int, _: object) -> None:
        handler(number)

    try:  # from the first handler on: a signal may arrive before the last one is set
        if threading.current_thread() is threading.main_thread():
            for number in [getattr(signal, name) for name in names if hasattr(signal, name)]:
                previous[number] = signal.signal(number, handle)
        yield
    finally:
        for number, previous_handler in previous.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, previous_handler)


def ignore_next_sigterm() -> None:
    """Ignore the next SIGTERM, so that this process can report its error before it ends.

    When one of several processes fails, the launcher sends SIGTERM to the others at once. Another
    SIGTERM ends the process. In threads other than the main one, this changes nothing.
    """

    def ignore(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ignore)


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

        def request_stop(_: int) -> None:
            if self.is_requested:
                raise KeyboardInterrupt
            self.is_requested = True

        with handle_signals(("SIGINT", "SIGTERM"), request_stop):
            yield
