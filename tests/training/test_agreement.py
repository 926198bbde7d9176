"""What a signal to one of several processes comes to before and after their first step."""

import signal

import pytest

from jtl.signals import Stopped, StopRequest
from jtl.training import agreement, sharding


@pytest.fixture
def shared() -> agreement.Shared:
    return agreement.Shared(StopRequest(), sharding.mesh(sharding.Config()))


def _stopped_while_it_compiles(shared: agreement.Shared, caught: list[str]) -> None:
    with shared.deferred():
        try:
            with shared.raising():
                shared._own.handle(signal.SIGTERM, None)
        except Stopped:
            caught.append("what is saved where all have agreed to stop")


def _checked(shared: agreement.Shared, count: int) -> None:
    for _ in range(count):
        shared.check()


def test_signal_before_the_first_step_ends_its_process_and_saves_nothing(shared: agreement.Shared) -> None:
    caught: list[str] = []
    with pytest.raises(Stopped):
        _stopped_while_it_compiles(shared, caught)
    assert caught == []


def test_signal_after_it_is_noted_and_all_stop_some_calls_later(shared: agreement.Shared) -> None:
    with shared.deferred():
        shared.check()
        with shared.raising():
            shared._own.handle(signal.SIGTERM, None)
        assert not shared.is_set
        with pytest.raises(Stopped):
            _checked(shared, agreement.MAX_AHEAD + 2)
    assert shared.number == signal.SIGTERM
