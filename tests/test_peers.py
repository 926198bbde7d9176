"""The watch of processes over each other, with a store and a clock of the test's own."""

import json
from typing import Any

import pytest

from jtl import peers
from jtl.peers import END, LOST_CODE, LOST_SECONDS, SUSPECTED_SECONDS, Watch


class Store:
    """Texts by key, as JAX's service keeps them."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.fault: Exception | None = None

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        if self.fault is not None:
            raise self.fault
        if key in self.kept and not allow_overwrite:
            raise RuntimeError(f"ALREADY_EXISTS: {key}")
        self.kept[key] = value

    def key_value_try_get(self, key: str) -> str:
        if key not in self.kept:
            raise RuntimeError(f"NOT_FOUND: {key}")
        return self.kept[key]

    def key_value_dir_get(self, prefix: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self.kept.items() if key.startswith(f"{prefix}/")]


class World:
    """Two processes, each with its watch, and how each was ended."""

    def __init__(self) -> None:
        self.store, self.now, self.ended = Store(), 0.0, {}
        self.watches = [self._watch(number) for number in range(2)]

    def _watch(self, number: int) -> Watch:
        def end(text: str, code: int) -> None:
            self.ended[number] = (text, code)

        return Watch(self.store, number, 2, end, lambda: self.now)

    def pass_seconds(self, seconds: float, *alive: int) -> None:
        for _ in range(round(seconds)):
            self.now += 1.0
            for number in alive:
                if number not in self.ended:
                    self.watches[number].look()


@pytest.fixture
def world() -> World:
    return World()


def test_processes_that_live_end_nothing(world: World) -> None:
    world.pass_seconds(10 * LOST_SECONDS, 0, 1)
    assert world.ended == {}


def test_process_without_a_sign_is_lost_and_named_and_ends_the_others(world: World) -> None:
    world.pass_seconds(5, 0, 1)
    world.pass_seconds(LOST_SECONDS - 1, 0)
    assert world.ended == {}
    world.pass_seconds(3, 0)
    text, code = world.ended[0]
    assert code == LOST_CODE
    assert text.startswith("process 1 of 2 (pid ")
    assert "is lost: no sign of life for 21 s" in text
    world.pass_seconds(1, 1)
    assert world.ended[1] == world.ended[0]


def test_process_is_found_lost_sooner_where_a_program_failed_meanwhile(world: World) -> None:
    world.pass_seconds(5, 0, 1)
    world.watches[0].suspect()
    world.pass_seconds(SUSPECTED_SECONDS + 2, 0)
    assert "is lost" in world.ended[0][0]


def test_service_that_answers_no_more_is_process_0_lost(world: World) -> None:
    world.pass_seconds(2, 0, 1)
    world.store.fault = RuntimeError("DEADLINE_EXCEEDED")
    world.pass_seconds(peers.MAX_UNANSWERED - 1, 1)
    assert world.ended == {}
    world.pass_seconds(1, 1)
    assert world.ended == {1: ("process 0 of 2 is lost: its service answers no more", LOST_CODE)}


def test_connection_that_is_closed_is_process_0_lost_at_once(world: World) -> None:
    world.store.fault = RuntimeError("UNAVAILABLE: Socket closed")
    world.pass_seconds(1, 1)
    assert world.ended[1][1] == LOST_CODE


def test_first_end_that_is_declared_counts_for_all(world: World) -> None:
    peers.declare(world.store, "process 1 of 2 failed: no", 2)
    peers.declare(world.store, "process 0 of 2 failed: later", 1)
    world.pass_seconds(1, 0, 1)
    assert world.ended == dict.fromkeys((0, 1), ("process 1 of 2 failed: no", 2))
    assert json.loads(world.store.kept[END])["code"] == 2


def test_watch_that_has_left_off_ends_nothing(world: World) -> None:
    world.watches[1].leave_off()
    world.store.fault = RuntimeError("UNAVAILABLE")
    world.pass_seconds(10, 1)
    assert world.ended == {}


def test_fault_of_the_store_is_no_missing_key(world: World) -> None:
    class Broken(Store):
        def key_value_try_get(self, key: str) -> str:
            raise RuntimeError(f"INTERNAL: {key}")

    with pytest.raises(RuntimeError, match="INTERNAL"):
        peers.read(Broken(), END)
    found: Any = peers.read(world.store, END)
    assert found == ""
