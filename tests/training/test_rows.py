"""Which rows of a batch a process reads: all together make the batch of (seed, step), however it is read."""

import io
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.data import Info, Source, pipeline
from jtl.data.sampling import SAMPLINGS
from jtl.inputs.image import Augment
from jtl.report.console import Live
from jtl.report.summary import Phases
from jtl.strategies import STRATEGIES
from jtl.strategies.contract import TRAIN, Stream
from jtl.training import config, dispatch, routes, sharding
from jtl.training.build import Built
from jtl.training.ready import Feed, Plan, Programs, Reporter, Run
from tests import tiny

BATCH_SIZE, START, NUM_STEPS, SEED = 16, 3, 4, 5
# How many devices stand along data, fsdp and tensor, and in how many processes they are.
GRID = (
    *(((8, 1, 1), 1), ((8, 1, 1), 2), ((8, 1, 1), 4), ((8, 1, 1), 8)),
    *(((1, 8, 1), 2), ((1, 8, 1), 8), ((2, 2, 2), 2), ((2, 2, 2), 4), ((2, 1, 4), 4), ((1, 4, 2), 8)),
    *(((1, 1, 8), 2), ((1, 1, 8), 8)),
)


class _Numbered:
    """Images that differ, of three classes; the second stream has another number of them."""

    info = Info("numbered", ("a", "b", "c"))

    def __init__(self, count: int) -> None:
        self._count = count

    def labels(self) -> np.ndarray:
        return np.arange(self._count) % 3

    def describe(self, index: int) -> str:
        return f"numbered[{index}]"

    def fingerprint(self, index: int) -> bytes:
        return bytes([index])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        return {"raw": pixels, "label": index % 3, "id": index}


SOURCES: dict[str, Source] = {TRAIN: _Numbered(22), "target": _Numbered(13), "unlabelled": _Numbered(17)}


@pytest.fixture(scope="module")
def made() -> tuple[Any, Any]:
    """The parts of a run, and what strategies may know of its model."""
    parts, params, model_state = tiny.make_parts("vit", augment=Augment(crop_scale=(0.3, 1.0)))
    return parts, tiny.make_context(parts.model, params, model_state, 20)


def _run(made: tuple[Any, Any], strategy: str, mesh: Any, sampling: str = "uniform", **inputs: Any) -> Run:
    parts, context = made
    kind = STRATEGIES[strategy]
    built = kind.build(kind.Config(**tiny.FIELDS.get(strategy, {})), context)
    train = {"batch_size": BATCH_SIZE, "seed": SEED, "sampling": sampling}
    settings = config.from_dict({"train": train, "inputs": {"threads": 1, **inputs}})
    streams = {TRAIN: SOURCES[TRAIN], **{name: SOURCES[each.of] for name, each in built.streams.items()}}
    return Run(
        Plan(settings, Path(), None, Built(parts._replace(strategy=built), {}, {}, None), ""),  # type: ignore[arg-type]
        Feed(streams, streams, None, {}, None),
        Programs(mesh, None, None, None),  # type: ignore[arg-type]
        Reporter(Live(io.StringIO()), Phases()),
    )


def _read(ready: Run, rows: sharding.Rows, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the batches of the steps as the process reads them that has these rows."""
    with monkeypatch.context() as patch, closing(dispatch.host_batches(ready, START)) as batches:
        patch.setattr(sharding, "rows_of", lambda mesh: rows)
        return list(islice(batches, NUM_STEPS))


def _rows(mesh: Any, num_processes: int) -> list[sharding.Rows]:
    """Return the rows of every process, which has as many of the devices as every other, in order."""
    own = np.split(mesh.devices.reshape(-1), num_processes)
    return [sharding.rows_on(mesh, list(devices)) for devices in own]


def _ids(ready: Run) -> dict[str, np.ndarray]:
    """Return which examples the plan has for the steps, by stream."""
    found = {}
    for name, source in ready.feed.streams.items():
        stream = ready.plan.built.parts.strategy.streams.get(name, Stream(TRAIN))
        sampling = ready.plan.settings.train.sampling if stream.of == TRAIN else "uniform"
        order, _ = pipeline.plan(source, sampling, routes.stream_seed(SEED, stream.of))
        rows = BATCH_SIZE * stream.times
        positions = range(START * rows, (START + NUM_STEPS) * rows)
        found[name] = np.array([order[each] for each in positions]).reshape(NUM_STEPS, rows)
    return found


def _check(ready: Run, num_processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that processes, those of each part once, read the examples of the plan in its order."""
    rows = _rows(ready.programs.mesh, num_processes)
    parts = {each.place: _read(ready, each, monkeypatch) for each in dict.fromkeys(rows)}
    assert sorted(parts) == list(range(rows[0].num))
    for name, expected in _ids(ready).items():
        for number in range(NUM_STEPS):
            read = np.concatenate([parts[place][number][name]["id"] for place in sorted(parts)])
            np.testing.assert_array_equal(read, expected[number], err_msg=f"{name}, step {number}")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_read_the_examples_of_the_plan_for_every_strategy(
    made: tuple[Any, Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sizes, num_processes in (((8, 1, 1), 1), ((8, 1, 1), 4), ((2, 2, 2), 2)):
        mesh = sharding.mesh(sharding.Config(mesh=sizes))
        _check(_run(made, strategy, mesh), num_processes, monkeypatch)


@pytest.mark.parametrize(("sizes", "num_processes"), GRID)
@pytest.mark.parametrize("strategy", ["full", "dann"])
def test_processes_read_the_examples_of_the_plan_on_every_mesh(
    made: tuple[Any, Any], strategy: str, sizes: Any, num_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = sharding.mesh(sharding.Config(mesh=sizes))
    for sampling in SAMPLINGS:
        _check(_run(made, strategy, mesh, sampling), num_processes, monkeypatch)


def test_inputs_are_varied_alike_for_any_number_of_processes_and_threads(
    made: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = sharding.mesh(sharding.Config())
    alone = _read(_run(made, "dann", mesh), sharding.Rows(), monkeypatch)
    for threads, num_processes in ((3, 1), (1, 2), (3, 8)):
        ready = _run(made, "dann", mesh, threads=threads)
        parts = [_read(ready, rows, monkeypatch) for rows in _rows(mesh, num_processes)]
        for name in ready.feed.streams:
            for number in range(NUM_STEPS):
                joined = np.concatenate([part[number][name]["inputs"] for part in parts])
                np.testing.assert_array_equal(joined, alone[number][name]["inputs"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["full", "dann"])
def test_reader_processes_read_the_examples_of_the_plan(
    made: tuple[Any, Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = sharding.mesh(sharding.Config())
    for workers, num_processes in ((1, 2), (3, 1)):
        _check(_run(made, strategy, mesh, workers=workers), num_processes, monkeypatch)


@pytest.mark.parametrize("num_processes", [1, 2, 8])
def test_plans_of_examples_on_the_devices_are_those_of_examples_that_are_read(
    made: tuple[Any, Any], num_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = _run(made, "dann", sharding.mesh(sharding.Config()))
    lying: Any = dict.fromkeys(ready.feed.streams)
    _check(ready._replace(feed=ready.feed._replace(residents=lying)), num_processes, monkeypatch)
