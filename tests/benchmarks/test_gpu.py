"""The unattended measurement of a card: a part that fails or hangs is noted and takes no other with it."""

import itertools
import json
import os
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import OUT, Part

WRITES = "import json, sys; json.dump({'sweep': []}, open(sys.argv[1], 'w'))"


def _part(name: str, code: str, seconds: float = 30.0) -> Part:
    return Part(name, ("-c", code, OUT), seconds, {})


@pytest.mark.slow
def test_part_that_hangs_or_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    hangs = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)"
    planned = [
        _part("hangs", "import threading; print('waits', flush=True); threading.Event().wait()", 2.0),
        _part(
            "waits for another", hangs.replace("input()", "import threading; threading.Event().wait()"), 2.0
        ),
        _part("fails", "raise SystemExit('a reason')"),
        _part("works", WRITES),
    ]
    out = tmp_path / "new" / "gpu.json"
    record = gpu.measured(planned, 60.0, out)
    assert json.loads(out.read_text()) == record
    found = record["parts"]
    assert found["hangs"]["status"] == found["waits for another"]["status"] == "stopped at its limit of 2 s"
    assert found["hangs"]["log"] == "waits\n"
    assert (found["fails"]["status"], found["fails"]["log"]) == ("failed with code 1", "a reason\n")
    assert (found["works"]["status"], found["works"]["result"]) == ("done", {"sweep": []})
    assert "fails: failed with code 1" in gpu.summary(record)


def test_parts_are_left_out_once_the_time_is_up(tmp_path: Path) -> None:
    moments = itertools.count(0.0, 60.0)
    record = gpu.measured([_part("late", WRITES)], 50.0, tmp_path / "gpu.json", lambda: next(moments))
    assert record["parts"]["late"] == {"status": "left out: the time is up"}


def test_parts_fit_the_recipes_and_the_most_telling_come_first() -> None:
    for part in (*gpu.parts(), *gpu.small_parts()):
        configs = [word for word in part.words if word.startswith("configs/")]
        assert all((gpu.ROOT / word.partition(":")[0]).is_file() for word in configs)
        assert bool(configs) == (OUT in part.words)
    assert gpu.parts()[0].name == "tests marked gpu"
    assert sum(part.seconds for part in gpu.parts()[:3]) < gpu.SECONDS


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "COMPARED", ("json", "no_such_package"))
    assert "no_such_package" in gpu.missing()
    assert "json" not in gpu.missing()


def test_flags_of_a_part_are_added_to_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--one")
    assert gpu._merged({"XLA_FLAGS": "--two"}) == {"XLA_FLAGS": "--one --two"}
    assert gpu._merged({"A": "b"}) == {"A": "b", "XLA_FLAGS": "--one"}
    assert str(gpu.ROOT) in gpu._path().split(os.pathsep)
