"""What a run tells of itself ends no run: a fault of it is one line and a note, a signal passes."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jtl.data import Info
from jtl.data.contract import TEXT
from jtl.data.texts import Texts
from jtl.inputs import INPUTS, Glimpse
from jtl.metrics import Summary
from jtl.report.gallery import Overlay, Overlays
from jtl.report.scores import Scored
from jtl.report.summary import Phases
from jtl.signals import Stopped
from jtl.training import account
from jtl.training.ready import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "meta.json").write_text('{"notes": ["before"], "task": "multiclass"}', encoding="utf-8")
    return tmp_path


def test_fault_of_a_report_is_one_line_and_a_note_and_ends_no_run(folder: Path) -> None:
    said: list[str] = []
    with account.harmless(folder, said.append, "report.html"):
        raise OSError(28, "No space left on device")
    (line,) = said
    assert line.startswith("report.html could not be made (OSError: ")
    assert line.endswith("; the run is whole")
    about = json.loads((folder / "meta.json").read_text())
    assert about == {"notes": ["before", line], "task": "multiclass"}


def test_fault_that_cannot_be_noted_ends_no_run_either(folder: Path) -> None:
    (folder / "meta.json").write_text("[]", encoding="utf-8")
    said: list[str] = []
    with account.harmless(folder, said.append, "README.md"):
        raise ValueError("x")
    assert len(said) == 1


def test_signal_in_a_report_passes(folder: Path) -> None:
    said: list[str] = []
    with pytest.raises(Stopped), account.harmless(folder, said.append, "report.html"):
        raise Stopped(signal.SIGTERM)
    assert said == []


def _ready(folder: Path, said: list[str]) -> Run:
    """Return what of a run explanations are made of."""
    task = SimpleNamespace(name="multiclass")
    source = Texts(Info("set", (), TEXT), ("a",), None, "set", np.arange(1))
    found: dict[str, Any] = dict.fromkeys(Run._fields)
    found |= {
        "plan": SimpleNamespace(folder=folder, settings=SimpleNamespace(task=task)),
        "feed": SimpleNamespace(splits={"val": source}),
        "reporter": SimpleNamespace(phases=Phases(), live=SimpleNamespace(log=said.append)),
    }
    return Run(**found)


def _told() -> dict[str, account.Told]:
    logits = np.float32([[3, 0], [0, 2], [1, 0]])
    examples = Scored(logits, logits, np.array([1, 1, 0]), ("ant", "bee"))
    return {"val": account.Told(Summary({}, {}, None), {}, {}, examples)}


def test_few_examples_are_explained_the_mistakes_first(folder: Path) -> None:
    asked: list[Any] = []

    def explain(*given: Any) -> Overlays:
        asked.append(given)
        return Overlays("a method", {0: Overlay(b"jpeg")})

    found = account.explained(_ready(folder, []), _told(), explain)
    ((path, source, rows),) = asked
    assert (path, source.info.name, rows[0], sorted(rows)) == (folder, "set", 0, [0, 1, 2])
    assert found["val"].method == "a method"
    assert account.explained(_ready(folder, []), _told(), None) == {}


def test_explanations_that_cannot_be_had_are_one_line_and_end_no_run(folder: Path) -> None:
    said: list[str] = []

    def broken(*_: Any) -> Overlays:
        raise MemoryError("too little")

    assert account.explained(_ready(folder, said), _told(), broken) == {}
    account.explained(_ready(folder, said), _told(), lambda *_: Overlays("", {}, "a vit offers none"))
    assert said[0].startswith("the explanations of val could not be made (MemoryError: too little)")
    assert said[1:] == ["the report shows no explanations: a vit offers none"]


def test_example_that_cannot_be_read_any_more_is_shown_as_nothing() -> None:
    texts = Texts(Info("set", (), TEXT), ("\ud800",), None, "set", np.arange(1))
    for is_shown in (True, False):
        assert account._glimpse(INPUTS["tokens"], texts, 0, is_shown=is_shown) == Glimpse()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/usr/bin/jtl", "train", "--config", "a b.py"], "jtl train --config 'a b.py'"),
        (["/x/jtl/main.py", "--config", "a.py"], "jtl train --config a.py"),
        (["/x/jtl/__main__.py", "compare", "--out", "c"], "jtl compare --out c"),
        (["/x/ipykernel_launcher.py", "-f", "kernel.json"], ""),
        (["main.py", "photos/"], ""),
    ],
)
def test_command_is_as_a_person_types_it_and_none_of_a_program_that_calls_jtl(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", words)
    assert account.command() == expected


def test_licence_is_that_of_the_catalogue_or_unknown() -> None:
    assert account.licence("vit_tiny_patch16_224.augreg_in21k_ft_in1k") == "Apache-2.0"
    assert account.licence("hf://timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k") == "Apache-2.0"
    assert account.licence("mine.safetensors") == ""
