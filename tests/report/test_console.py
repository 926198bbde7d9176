"""The live line: one row that is rewritten on a terminal, few plain lines elsewhere."""

import io

import pytest

from jtl.report import console
from jtl.report.console import ERASE, Live


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def progress(step: int, **changed: object) -> dict[str, object]:
    values = {
        "step": step,
        "num_steps": 1000,
        "epoch": step / 8,
        "loss": 0.5,
        "num_examples": 32,
        "unit": "images",
    }
    metric = {"wait_fraction": 0.02, "metric_name": "accuracy", "last": None, "best": None}
    return {**values, **metric, **changed}


def screen(text: str) -> list[str]:
    """The rows a terminal shows after this output."""
    rows = [""]
    for part in text.replace("\n", "\0\n").split("\0"):
        if part.startswith("\n"):
            rows.append("")
            part = part[1:]
        pieces = part.split(ERASE)
        rows[-1] = rows[-1] + pieces[0] if len(pieces) == 1 else pieces[-1]
    return rows


def test_line_shows_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "terminal_width", lambda: 200)
    clock, stream = Clock(), Terminal()
    live = Live(stream, clock)
    live.update(**progress(1))
    assert "step 1/1,000  epoch 0.1  loss 0.5000  wait 2%  memory" in screen(stream.getvalue())[-1]
    assert "left" not in screen(stream.getvalue())[-1]
    for step in range(2, 7):
        clock.now += 0.25
        live.update(**progress(step, last=0.5, best=0.75))
    shown = screen(stream.getvalue())[-1]
    assert "128 images/s" in shown
    assert "left 4:08" in shown
    assert "accuracy 0.5000 (best 0.7500)" in shown


def test_rate_ignores_the_pause_of_an_evaluation_but_the_time_left_counts_it() -> None:
    clock, stream = Clock(), Terminal()
    live = Live(stream, clock)
    for step in range(1, 12):
        live.update(**progress(step))
        clock.now += 5.0 if step == 5 else 0.5
    live.finish()
    shown = screen(stream.getvalue())[-2]
    assert "64 images/s" in shown
    assert f"left {console.duration(9.5 / 10 * 989)}" in shown


def test_terminal_keeps_one_row_and_log_lines_stay_above_it() -> None:
    clock, stream = Clock(), Terminal()
    live = Live(stream, clock)
    live.log("run folder: runs/a")
    for step in range(1, 4):
        clock.now += 1.0
        live.update(**progress(step))
    live.log("step 3: val accuracy 0.5")
    live.finish()
    rows = screen(stream.getvalue())
    assert rows[0] == "run folder: runs/a"
    assert rows[1] == "step 3: val accuracy 0.5"
    assert rows[2].startswith("step 3/1,000")
    assert rows[3:] == [""]


def test_notebook_has_one_row_too_that_is_drawn_less_often() -> None:
    stream_of_a_notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    clock, stream = Clock(), stream_of_a_notebook()
    live = Live(stream, clock)
    for step in range(1, 10):
        live.update(**progress(step))
        clock.now += 0.4
    live.finish()
    assert next(row for row in screen(stream.getvalue()) if row).startswith("step 9/1,000")
    assert stream.getvalue().count(ERASE) == 4


def test_row_fits_every_terminal_and_the_metric_outlives_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in range(10, 150):
        monkeypatch.setattr(console, "terminal_width", lambda width=width: width)
        stream = Terminal()
        Live(stream, Clock()).update(**progress(1, last=0.5, best=0.75))
        row = screen(stream.getvalue())[-1]
        assert len(row) < width
        assert "accuracy 0.5000 (best 0.7500)" in row or width < 65
        assert "memory" in row or width < 100


def test_terminal_is_redrawn_at_most_five_times_a_second_and_finish_shows_the_last_step() -> None:
    clock, stream = Clock(), Terminal()
    live = Live(stream, clock)
    for step in range(1, 101):
        live.update(**progress(step))
        clock.now += 0.01
    assert stream.getvalue().count(ERASE) == 5
    live.finish()
    assert "step 100/" in screen(stream.getvalue())[0]


def test_plain_stream_gets_a_line_every_ten_seconds_and_the_last_one() -> None:
    clock, stream = Clock(), io.StringIO()
    live = Live(stream, clock)
    for step in range(1, 31):
        live.update(**progress(step))
        live.log(f"after {step}") if step == 15 else None
        clock.now += 1.0
    live.finish()
    live.finish()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/1,000", "11/1,000", "15", "21/1,000", "30/1,000"]
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_run_that_makes_no_step_has_no_line_to_finish(stream: type[io.StringIO]) -> None:
    shown = stream()
    live = Live(shown, Clock())
    live.finish()
    assert shown.getvalue() == ""
    live.log("resumed at step 12 of 12")
    live.finish()
    assert shown.getvalue().removeprefix(ERASE) == "resumed at step 12 of 12\n"


def test_default_stream_is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    live = Live()
    live.log("hello")
    live.update(**progress(1))
    live.finish()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hello\nstep 1/")


def test_without_device_books_memory_is_that_of_the_process() -> None:
    peak = Live(io.StringIO()).peak_memory_bytes()
    assert 50e6 < peak < 1e12


def test_device_books_are_read_where_the_backend_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    books = [{"bytes_in_use": 2**30, "peak_bytes_in_use": 3 * 2**30, "bytes_limit": 80 * 2**30}]
    books.append({"bytes_in_use": 2**31, "peak_bytes_in_use": 2**31, "bytes_limit": 80 * 2**30})
    monkeypatch.setattr(console, "_device_stats", lambda: books)
    assert console.memory() == "memory 2.0/80 GiB"
    assert Live(io.StringIO()).peak_memory_bytes() == 3 * 2**30
