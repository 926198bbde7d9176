"""Signals: raised where nothing is lost, noted where something is, and a watch over code that hears none."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from jtl import signals
from jtl.signals import Stopped, StopRequest


@pytest.fixture
def request_heard() -> Iterator[StopRequest]:
    """The request of a process that listens, and was not started to ignore anything."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.STOPPING}
    try:
        with signals.listening() as stop:
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", signals.STOPPING)
def test_signal_stops_the_process_where_it_stands(request_heard: StopRequest, number: int) -> None:
    with pytest.raises(Stopped, match=signal.Signals(number).name):
        _send(number)
    assert (request_heard.is_set, request_heard.number) == (True, number)
    with pytest.raises(Stopped):
        signals.check()


def test_signal_is_only_noted_where_there_is_something_to_save(request_heard: StopRequest) -> None:
    with request_heard.deferred():
        _send()
        assert request_heard.is_set
        assert signals.is_asked()
    with pytest.raises(Stopped):
        request_heard.check()


def test_what_can_be_done_again_is_stopped_in_between(request_heard: StopRequest) -> None:
    with request_heard.deferred(), pytest.raises(Stopped), request_heard.raising():
        _send()
    with request_heard.deferred():
        _send(signal.SIGHUP)  # the same request, from another sender at the same moment


def test_no_exception_handler_keeps_it() -> None:
    assert not issubclass(Stopped, Exception)


class Fragile:
    """Is signalled while it is being destroyed, where Python drops what is raised."""

    def __del__(self) -> None:
        _send()
        for _ in range(100):
            pass


def _dropped(call: Callable[[], object], stop: StopRequest) -> None:
    """Make a call in which what a signal raises is dropped, and wait for it to be raised again."""
    call()
    assert stop.is_set
    threading.Event().wait(60)


def test_stop_that_a_destructor_dropped_is_raised_again_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with signals.listening() as stop, pytest.raises(Stopped, match="SIGTERM"):
        _dropped(Fragile, stop)
    assert capfd.readouterr().err == ""


def test_stop_that_the_garbage_collector_dropped_is_raised_again_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    sent: list[str] = []

    def collecting(phase: str, info: object) -> None:
        del info
        if not sent:
            sent.append(phase)
            _send()

    with signals.listening() as stop:
        gc.callbacks.append(collecting)
        try:
            with pytest.raises(Stopped, match="SIGTERM"):
                _dropped(gc.collect, stop)
        finally:
            gc.callbacks.remove(collecting)
    assert sent
    assert capfd.readouterr().err == ""


def test_stop_that_was_dropped_is_only_noted_where_there_is_something_to_save(
    request_heard: StopRequest,
) -> None:
    Fragile()
    with request_heard.deferred():
        request_heard.handle(signal.SIGTERM, None)
    with pytest.raises(Stopped):
        request_heard.check()


def test_what_else_comes_to_nothing_is_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_value))

    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    with signals.listening():
        Broken()
    assert [str(each) for each in told] == ["broken"]
    Broken()
    assert len(told) == 2


def test_signal_is_answered_while_other_code_runs(request_heard: StopRequest) -> None:
    is_over = threading.Event()

    def compiled() -> None:
        _send()
        is_over.wait(60)

    with pytest.raises(Stopped):
        signals.interruptibly(compiled)
    assert not is_over.is_set()
    is_over.set()


def test_what_runs_in_between_gives_its_value_or_its_error() -> None:
    assert signals.interruptibly(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        signals.interruptibly(lambda: 1 / 0)


def test_inner_listener_is_the_outer_one_and_the_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in signals.STOPPING]
    with signals.listening() as outer:
        with signals.listening() as inner:
            assert inner is outer
        assert signals.current() is outer
    assert [signal.getsignal(number) for number in signals.STOPPING] == before
    assert signals.current() is None


def test_what_the_process_was_started_to_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.listening() as stop:
            _send(signal.SIGHUP)
            assert not stop.is_set
    finally:
        signal.signal(signal.SIGHUP, before)


def test_process_that_does_not_come_to_its_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.0)
    told: list[int] = []
    is_told = threading.Event()

    def overdue(number: int) -> None:
        told.append(number)
        is_told.set()

    with signals.listening(overdue) as stop, stop.deferred():
        _send()
        assert is_told.wait(60)
    assert told == [signal.SIGTERM]


def test_process_that_saves_is_not_ended_and_one_that_ended_well_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []
    with signals.listening(told.append) as stop, stop.deferred():
        _send()
    assert told == []


def test_other_threads_hear_nothing_and_run_all_the_same() -> None:
    found: list[bool] = []

    def work() -> None:
        with signals.listening() as stop:
            found.append(stop.is_set)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
