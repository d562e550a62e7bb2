"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from resnet_tasks.runtime.signals import StopRequest, handle_signals, ignore_next_sigterm


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_and_a_second_one_does_not_wait(number: int) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    stop = StopRequest()
    with stop.listen():
        assert not stop.is_requested
        signal.raise_signal(number)
        assert stop.is_requested
        assert not stop.is_confirmed  # others do not know yet
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert {each: signal.getsignal(each) for each in before} == before


def test_the_callers_signals_are_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="no"), StopRequest().listen():
        raise RuntimeError("no")
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_before_the_last_handler_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    set_handler = signal.signal

    def interrupted(number: int, handler: Any) -> Any:
        if number == signal.SIGTERM and handler is not before[signal.SIGTERM]:
            raise KeyboardInterrupt
        return set_handler(number, handler)

    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt), StopRequest().listen():
        pass
    assert {each: signal.getsignal(each) for each in before} == before


def test_other_threads_leave_signals_to_the_caller() -> None:
    before, entered = signal.getsignal(signal.SIGINT), []

    def listens() -> None:
        with StopRequest().listen():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listens)
    thread.start()
    thread.join()
    assert entered == [before]


def test_one_that_is_asked_stops_all() -> None:
    stop = StopRequest()
    assert not stop.agree([False, False])
    assert stop.agree([False, True])
    assert stop.is_confirmed
    assert not stop.is_requested


def test_handlers_are_called_and_put_back() -> None:
    names, numbers = ("SIGTERM", "SIGHUP", "SIGNONE"), list[int]()
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    with handle_signals(names, numbers.append):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert numbers == [signal.SIGHUP, signal.SIGTERM]
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_process_that_reports_an_error_ignores_one_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with StopRequest().listen():
            ignore_next_sigterm()  # stays when the block ends
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the next one ends the process
    finally:
        signal.signal(signal.SIGTERM, before)
