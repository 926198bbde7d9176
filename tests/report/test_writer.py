"""metrics.jsonl and TensorBoard events: whole lines, valid JSON, and no step twice after a resume."""

import errno
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from jtl.errors import UserError
from jtl.report.writer import Writer

RECORD_HEADER, RECORD_FOOTER = 12, 4


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder: Path) -> list[Event]:
    """Every TensorBoard event, from the TFRecord framing: length (8), crc (4), payload, crc (4)."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        rest = path.read_bytes()
        while rest:
            end = RECORD_HEADER + int.from_bytes(rest[:8], "little")
            found.append(Event.FromString(rest[RECORD_HEADER:end]))
            rest = rest[end + RECORD_FOOTER :]
    return found


def test_scalars_reach_both_files(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 0)
    writer.scalars(1, {"train/loss": 2.5})
    writer.scalars(2, {"train/loss": 1.5, "val/accuracy": 0.25})
    writer.close()
    first, second = lines(tmp_path)
    assert (first["step"], first["train/loss"]) == (1, 2.5)
    assert (second["step"], second["val/accuracy"]) == (2, 0.25)
    assert second["time"] >= first["time"] > 1.6e9
    scalars = [(event.step, value.tag) for event in events(tmp_path) for value in event.summary.value]
    assert scalars == [(1, "train/loss"), (2, "train/loss"), (2, "val/accuracy")]


def test_writing_takes_no_thread_and_no_queue(tmp_path: Path) -> None:
    """TensorBoard's own thread dies on a full disk without a word, and closing would wait for it."""
    before = threading.active_count()
    writer = Writer(tmp_path, 0)
    writer.scalars(1, {"train/loss": 2.5})
    assert threading.active_count() == before
    assert [value.simple_value for event in events(tmp_path) for value in event.summary.value] == [2.5]
    writer.close()


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
def test_fault_of_writing_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    writer = Writer(tmp_path, 0)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place = "_events" if name == "tensorboard" else "_file"
    getattr(writer, place).close()
    monkeypatch.setattr(writer, place, SimpleNamespace(write=refuse, close=lambda: None))  # a full disk
    with pytest.raises(OSError, match="No space left on device") as caught:
        writer.scalars(1, {"train/loss": 2.5})
    assert caught.value.filename == str(tmp_path / name)
    writer.close()


def test_a_report_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path, 0)

    def refuse(*_: object) -> None:
        raise AssertionError("the training loop waited until a disk had its numbers")

    monkeypatch.setattr(os, "fsync", refuse)
    writer.scalars(1, {"train/loss": 2.5})
    writer.close()


def test_events_are_framed_as_tensorboard_reads_them(tmp_path: Path) -> None:
    """Byte for byte as tensorboardX writes the same event."""
    writer = Writer(tmp_path, 0)
    writer.scalars(3, {"train/loss": 2.5})
    writer.close()
    [path] = (tmp_path / "tensorboard").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    assert events(tmp_path)[0].file_version == "brain.Event:2"
    other = RecordWriter(str(tmp_path / "other"))
    for event in events(tmp_path):
        other.write(event.SerializeToString())
    other.close()
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_a_line_is_in_the_file_before_the_writer_is_closed(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 0)
    writer.scalars(1, {"train/loss": 2.5})
    assert lines(tmp_path)[0]["train/loss"] == 2.5
    writer.close()


def test_nan_and_inf_are_null(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 0)
    writer.scalars(1, {"val/recall": float("nan"), "val/loss": float("inf")})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert (lines(tmp_path)[0]["val/recall"], lines(tmp_path)[0]["val/loss"]) == (None, None)
    assert not [value for event in events(tmp_path) for value in event.summary.value]


def test_resume_drops_later_lines_and_keeps_the_others_as_they_were(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 0)
    for step in range(1, 6):
        writer.scalars(step, {"train/loss": float(step)})
    writer.close()
    before = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    writer = Writer(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(before[:3])
    writer.scalars(4, {"train/loss": 40.0})
    writer.close()
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 40),
    ]


def test_resume_tells_tensorboard_from_which_step_on_to_forget(tmp_path: Path) -> None:
    Writer(tmp_path, 3).close()
    assert [event.step for event in events(tmp_path) if event.WhichOneof("what") == "session_log"] == [4]


def test_unfinished_last_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0}\n{"step": 2, "ti')
    Writer(tmp_path, 5).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "time": 0}\n'


def test_lines_of_the_final_report_are_not_written_twice(tmp_path: Path) -> None:
    for _ in range(2):
        writer = Writer(tmp_path, 2)
        writer.scalars(2, {"test/loss": 0.5, "test/accuracy": 1.0})
        writer.close()
    assert [line["test/loss"] for line in lines(tmp_path)] == [0.5]


def test_evaluation_that_the_checkpoint_does_not_know_is_made_again(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 0)
    for step in (2, 4):
        writer.scalars(step, {"train/loss": 1.0})
        writer.scalars(step, {"val/loss": 0.5, "target/im": 1.0})
    writer.close()
    Writer(tmp_path, 4, [2]).close()
    assert [(line["step"], "val/loss" in line) for line in lines(tmp_path)] == [
        (2, False),
        (2, True),
        (4, False),
    ]


@pytest.mark.parametrize("line", ["step 2", '{"time": 1}', "[2]", ""])
def test_line_that_is_no_report_is_an_error_that_names_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "time": 0}}\n{line}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:2 is .* expected a JSON object with a step"):
        Writer(tmp_path, 5)
