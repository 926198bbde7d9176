"""summary.json and the phase clock: seconds count once, files are whole, JSON stays JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from jtl.report import summary
from jtl.report.summary import Phases


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def built(phases: Phases, **changed: object) -> dict[str, object]:
    values = {
        "status": "finished",
        "steps": 10,
        "final": {"val/accuracy": 0.5},
        "best": {"val/accuracy": 0.75},
        "phases": phases,
        "num_examples": 320,
        "unit": "images",
        "parameters": {"total": 10, "trainable": 1},
        "weights": {"source": "none", "sha256": ""},
        "digest": "ab",
        "peak_memory_bytes": 7,
    }
    return summary.build(**{**values, **changed})


def test_nested_phases_count_each_second_once() -> None:
    clock = Clock()
    phases = Phases(clock)
    with phases.measure("evaluate"):
        clock.now += 1
        with phases.measure("compile"):
            clock.now += 10
        clock.now += 100
    clock.now += 1000
    with phases.measure("step"):
        clock.now += 5
    assert phases.seconds == {
        "load": 0.0,
        "features": 0.0,
        "compile": 10.0,
        "step": 5.0,
        "data_wait": 0.0,
        "evaluate": 101.0,
        "checkpoint": 0.0,
        "explain": 0.0,
    }


def test_phase_that_raises_is_closed_and_counted() -> None:
    clock = Clock()
    phases = Phases(clock)

    def load() -> None:
        with phases.measure("load"):
            clock.now += 2
            raise KeyError

    with pytest.raises(KeyError):
        load()
    clock.now += 50
    with phases.measure("step"):
        clock.now += 1
    assert phases.seconds["load"] == 2.0
    assert phases.seconds["step"] == 1.0


def test_unknown_phase_is_refused() -> None:
    with pytest.raises(AssertionError, match="'stepp' is none of"), Phases().measure("stepp"):
        pass


def test_rates_come_from_training_seconds_alone() -> None:
    clock = Clock()
    phases = Phases(clock)
    for phase, seconds in (("load", 50), ("compile", 60), ("step", 6), ("data_wait", 2), ("evaluate", 70)):
        with phases.measure(phase):
            clock.now += seconds
    result = built(phases)
    assert result["images_per_second"] == result["examples_per_second"] == 320 / 8
    assert result["data_wait_fraction"] == 0.25


def test_a_run_without_steps_has_zero_rates() -> None:
    result = built(Phases(), num_examples=0)
    assert (result["images_per_second"], result["data_wait_fraction"]) == (0.0, 0.0)


def test_summary_has_the_names_scripts_rely_on() -> None:
    assert set(built(Phases())) == {
        "final",
        "best",
        "examples_per_second",
        "images_per_second",
        "data_wait_fraction",
        "seconds",
        "steps",
        "peak_memory_bytes",
        "parameters",
        "weights",
        "status",
        "digest",
    }


@pytest.mark.parametrize(
    "changed", [{"status": "done"}, {"parameters": {"total": 1}}, {"weights": {"source": "none"}}]
)
def test_summary_of_another_shape_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        built(Phases(), **changed)


def test_plain_values_survive_a_round_trip_and_the_rest_is_converted() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.array([[1, 2]]),
        "c": (True, None, "x"),
        "d": [float("nan"), float("-inf")],
        "e": Path("runs/one"),
        3: np.array([np.nan, 1.0]),
    }
    expected = {
        "a": 0.5,
        "b": [[1, 2]],
        "c": [True, None, "x"],
        "d": [None, None],
        "e": "runs/one",
        "3": [None, 1.0],
    }
    assert summary.plain(value) == expected
    assert json.loads(json.dumps(summary.plain(value), allow_nan=False)) == expected


def test_plain_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match=r"object .* has no JSON form"):
        summary.plain({"a": object()})


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    summary.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        summary.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    summary.write_json(path, {"a": "é"})
    assert path.read_text() == '{\n  "a": "é"\n}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["meta.json"]


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meta.json"
    summary.write_json(path, {"a": 1})

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        summary.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
