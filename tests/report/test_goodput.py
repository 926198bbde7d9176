"""Where the wall time of all attempts of a run went."""

import time
from pathlib import Path

import pytest

from jtl.report import goodput
from jtl.report.goodput import Attempts, Line, lines, summed


def test_attempts_number_themselves_and_tell_how_far_they_are(tmp_path: Path) -> None:
    first = Attempts(tmp_path, 0, {"load": 1.0}, time.monotonic())
    first.add(5, {"load": 1.0, "step": 2.0})
    first.add(6, {"load": 1.0, "step": 3.0}, every=100.0)
    Attempts(tmp_path, 5, {}, time.monotonic())
    found = lines(tmp_path / goodput.FILE_NAME)
    assert [(line.attempt, line.step) for line in found] == [(1, 0), (1, 5), (2, 5)]
    assert found[1].seconds == {"load": 1.0, "step": 2.0}
    assert found[0].wall <= found[1].wall
    assert first.summed()["attempts"] == 2


def test_line_that_a_killed_process_left_half_written_is_none(tmp_path: Path) -> None:
    Attempts(tmp_path, 0, {}, time.monotonic())
    path = tmp_path / goodput.FILE_NAME
    path.write_text(
        path.read_text()
        + '{"attempt": 1, "step"\n[]\n{"attempt": 1}\n{"attempt": "a", "step": 0, "wall": 0, "seconds": {}}\n'
    )
    assert len(lines(path)) == 1
    assert lines(tmp_path / "none") == []


def test_seconds_of_all_attempts_add_up_to_their_wall_time() -> None:
    phases = {"load": 3.0, "compile": 1.0, "step": 5.0, "data_wait": 0.5, "evaluate": 0.5, "checkpoint": 0.25}
    found = summed(
        [
            Line(1, 0, 4.0, {"load": 3.0}),
            Line(1, 5, 12.0, phases),
            Line(1, 9, 16.0, {**phases, "step": 9.0}),
            Line(2, 5, 4.0, {"load": 3.0}),
            Line(2, 5, 6.0, {"load": 3.0, "step": 2.0}),
        ]
    )
    assert found["attempts"] == 2
    assert found["wall_seconds"] == 22.0
    assert sum(found["seconds"].values()) == pytest.approx(22.0)
    assert found["seconds"]["lost"] == 4.0
    assert found["seconds"]["start"] == 8.0
    assert found["fraction"] == pytest.approx(7.0 / 22.0, abs=1e-4)
    assert summed([])["fraction"] == 0.0


def test_attempt_that_came_to_no_save_is_lost_but_for_its_start() -> None:
    found = summed([Line(1, 0, 4.0, {}), Line(1, 3, 9.0, {"step": 5.0}), Line(2, 0, 4.0, {})])
    assert found["seconds"]["lost"] == 5.0
    assert found["seconds"]["steps"] == 0.0


def test_process_has_run_for_some_time() -> None:
    assert goodput.process_seconds() > 0.0
