"""A run folder whose JSON is damaged: whatever reads it gives a result or one line, never another error."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from jtl import predictor
from jtl.errors import UserError
from jtl.report import summary, writer
from jtl.report.console import Live
from jtl.training import build, claim, config, meta
from jtl.verbs.compare import tables
from jtl.verbs.fuse import members
from jtl.weights import inspect
from jtl.weights.run_folder import write_run_weights
from tests import damaged

SEED = 7
SETTINGS = [("train.steps", "2"), ("model.depth", "1")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves behind, without the run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    path.mkdir()
    settings = config.read("configs/smoke.py", SETTINGS)
    splits = build.open_splits(settings)
    stats = build.label_stats(settings, splits["train"])
    with jax.disable_jit():
        built = build.build(settings, stats, 2)
    write_run_weights(path, built.params, built.model_state)
    summary.write_json(path / "config.json", config.to_dict(settings))
    summary.write_json(path / "meta.json", meta.describe(settings, built, stats, splits, None, ["a note"]))
    result = summary.build(
        status="finished",
        steps=2,
        final={"val/accuracy": 0.5, "val/loss": 1.5},
        best={"step": 2, "val/accuracy": 0.5},
        phases=summary.Phases(),
        num_examples=32,
        unit="images",
        parameters={"total": 3, "trainable": 3},
        weights={"source": "none", "sha256": ""},
        digest="ab" * 32,
        peak_memory_bytes=1,
        target={"last": {"by": "step", "step": 2, "accuracy": 0.5}},
    )
    summary.write_json(path / "summary.json", result)
    lines = writer.Writer(path, 0)
    for step in (1, 2):
        lines.scalars(step, {"train/loss": 1.0, "val/loss": float("nan")})
    lines.close()
    return path


def _repeat(folder: Path) -> None:
    """As the command of a run does on its folder."""
    settings = config.read("configs/smoke.py", SETTINGS, folder)
    claim.finished(settings, folder, Live(io.StringIO()))


def _go_on(folder: Path) -> None:
    """As a run does before it goes on; that its data is other is what it must find."""
    labels = {"label_names": (), "num_examples": 0}
    try:
        meta.check_same(folder, {"labels": labels, "data": {}})
    except UserError as error:
        if "changed since run" not in str(error):
            raise


def _compare(folder: Path) -> None:
    tables.columns_of(summary.read(folder / "summary.json"), "accuracy")


def _predict(folder: Path) -> None:
    predictor.of_run(str(folder))


def _fuse(folder: Path) -> None:
    members.open_member(str(folder), ())


def _inspect(folder: Path) -> None:
    inspect.text(inspect.inspect(str(folder)))


def _report(folder: Path) -> None:
    writer.kept_lines(folder / "metrics.jsonl", 9, range(10))


READERS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "config.json": (_repeat, _predict, _fuse),
    "meta.json": (_go_on, _predict, _fuse, _inspect),
    "summary.json": (_repeat, _compare),
    "metrics.jsonl": (_report,),
}


def test_readers_read_what_is_whole(folder: Path) -> None:
    for readers in READERS.values():
        for read in readers:
            read(folder)


def _fault(read: Callable[[Path], None], folder: Path, what: str) -> str:
    """Return the line that a reader ends in, "" where it gives a result."""
    try:
        read(folder)
    except UserError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(what) from error
    return ""


def _damage(folder: Path, name: str, count: int) -> int:
    """Damage a file `count` times; return how often one line came of it."""
    whole, chance = (folder / name).read_bytes(), random.Random(f"{SEED} {name}")
    num_refused = 0
    try:
        for number in range(count):
            content = damaged.mutated(whole, chance, is_lines=name.endswith("l"))
            (folder / name).write_bytes(content)
            for read in READERS[name]:
                fault = _fault(read, folder, f"{read} {number}: {content[:3000]!r}")
                num_refused += bool(fault)
                assert not fault or (str(folder) in fault and len(fault) < 1000), (number, fault)
    finally:
        (folder / name).write_bytes(whole)
    return num_refused


@pytest.mark.parametrize("name", READERS)
def test_damage_is_a_result_or_one_line_that_names_the_file(folder: Path, name: str) -> None:
    assert _damage(folder, name, 60) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damage_of_every_kind_is_a_result_or_one_line(folder: Path, name: str) -> None:
    assert _damage(folder, name, 625) > 200
