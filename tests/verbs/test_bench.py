"""`jtl bench`: what is measured, on what, and what the record says; clocks here are counters."""

import importlib
import itertools
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.models import MODELS
from jtl.tasks import TASKS
from jtl.training import build, config
from jtl.verbs.bench import (
    against_torch,
    bench,
    empty_torchvision,
    measure,
    peaks,
    sizes,
    stand_in,
    table,
    whole,
)
from jtl.verbs.bench.measure import Length, Tick

SMALL = {
    "model.image_px": "8",
    "model.dim": "16",
    "model.depth": "1",
    "model.mlp_dim": "16",
    "train.batch_size": "4",
    "sharding.devices": "1",
}
TEXTS = {
    "model": {"name": "bert", "size": "bert_tiny", "vocabulary": 200, "dim": 16, "depth": 1, "mlp_dim": 16},
    "data": {"name": "table"},
    "preprocess": {"max_tokens": 32},
    "train": {"batch_size": 4},
    "sharding": {"devices": 1},
}
IMAGES = {
    "model": {"name": "vit", "size": "mini", "image_px": 8, "dim": 12, "depth": 1, "mlp_dim": 16},
    "data": {"name": "image_folder"},
    "train": {"batch_size": 4},
    "sharding": {"devices": 1},
}
OF_KIND = {"image": IMAGES, "tokens": TEXTS}
# Of each kind of input the tasks that its families have heads for.
PAIRS = [
    (kind, task)
    for kind, task in itertools.product(INPUTS, TASKS)
    if TASKS[task].label_kind != "none" or kind == "tokens"
]


def _clock(*moments: float) -> Callable[[], float]:
    found = iter(moments)
    return lambda: next(found)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the whole of a small run is measured as, with its record."""
    out = tmp_path_factory.mktemp("out") / "new" / "record.json"
    settings = [*SMALL.items(), ("train.steps", "3")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peaks, "MATRIX_SIZE", 64)
        result = bench.run(config="configs/smoke.py", num_steps=2, runs=2, out=str(out), overrides=settings)
    return {"result": result, "record": json.loads(out.read_text())}


def test_steps_alone_are_timed_each_with_its_dispatch_and_go_on_from_each_other() -> None:
    states = []

    def call(state: int, batch: str) -> tuple[int, None]:
        states.append((state, batch))
        return state + 1, None

    length = Length(warmup=1, steps=1, runs=1)
    clock = _clock(0.0, 1.0, 5.0, 10.0, 10.5, 12.0)
    alone = measure.steps_alone(call, 0, "batch", length, wait=lambda _: None, clock=clock)
    assert alone == ([5.0, 2.0], [1.0, 0.5])
    assert states == [(0, "batch"), (1, "batch")]


def test_feed_alone_times_batches_as_they_come() -> None:
    seen: list[int] = []
    seconds = measure.feed_alone(
        itertools.count(), Length(1, 2, 1), wait=seen.append, clock=_clock(0, 3, 3, 4, 4, 6)
    )
    assert (seconds, seen) == ([3, 1, 2], [0, 1, 2])


def test_spread_is_of_all_steps_and_run_by_run() -> None:
    runs = measure.parts([9.0, 1.0, 2.0, 3.0, 10.0, 9.0], Length(warmup=1, steps=2, runs=2))
    assert runs == [[1.0, 2.0], [3.0, 10.0]]
    found = measure.spread(runs)
    assert found == {
        **{"median": 2.5, "p50": 2.0, "p95": 10.0, "min": 1.0, "max": 10.0},
        **{"num_steps": 4, "runs": [1.5, 6.5]},
    }


def test_loop_adds_what_is_neither_its_wait_nor_the_step_by_itself() -> None:
    ticks = [Tick(2, 0.0, 0.0, 0.0), Tick(3, 9.0, 5.0, 1.0), Tick(5, 12.0, 6.0, 1.5)]
    found = whole.looped(ticks, 0.875, Length(warmup=2, steps=2, runs=1), 8)
    assert found["seconds"]["median"] == 1.5
    assert found["examples_per_second"] == pytest.approx(8 / 1.5)
    assert (found["wait_seconds"], found["wait_fraction"]) == (0.5, pytest.approx(1 / 3))
    assert (found["host_seconds"], found["added_seconds"]) == (0.25, 0.125)
    assert found["added_fraction"] == pytest.approx(0.125 / 0.875)


def test_whole_run_is_measured_apart_and_its_record_says_on_what(found: dict[str, Any]) -> None:
    result, kept = found["result"], found["record"]
    assert kept.keys() == result.keys()
    assert (kept["model"], kept["strategy"], kept["batch_size"]) == ("vit mini", "full", 4)
    assert kept["shape"] == [4, 8, 8, 3]
    assert kept["config"]["model"]["dim"] == 16
    for part in ("feed", "step", "loop"):
        assert kept[part]["seconds"]["num_steps"] == 4
        assert len(kept[part]["seconds"]["runs"]) == 2
        assert kept[part]["examples_per_second"] == pytest.approx(4 / kept[part]["seconds"]["median"])
    assert 0 <= kept["loop"]["wait_fraction"] < 1
    assert kept["seconds"].keys() == {"load", "compile", "compile_cached"}
    assert kept["parameters"]["total"] == kept["parameters"]["trainable"] > 0
    assert kept["memory"]["host_peak"] >= kept["memory"]["host_peak_after_step"] > 0
    assert kept["memory"]["compiled"]["total"] > kept["memory"]["compiled"]["temporary"] > 0
    assert 0 < kept["flops"]["step"] == pytest.approx(kept["flops"]["step_compiled"], rel=0.5)
    assert "measured" in kept["flops"]["peak_source"]
    assert kept["versions"]["jax"] == jax.__version__
    assert kept["notes"] == ["the run has 3 steps and 9 are measured: its schedule ends before"]


def test_table_says_every_part(found: dict[str, Any]) -> None:
    rows = dict(line.strip().split("  ", 1) for line in table.text(found["result"]).splitlines())
    assert {"feed alone", "step alone", "loop", "wait for data", "the loop adds"} <= rows.keys()
    assert rows["share of peak"].endswith("float32")
    assert "cold" in rows["compile"]


@pytest.mark.parametrize(
    ("out", "why"), [("file/record.json", "Not a directory|File exists"), ("", "Is a dir")]
)
def test_record_that_cannot_be_written_is_refused_before_anything_is_measured(
    out: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"--out '.*' cannot be written \(({why})"):
        bench.run(config="configs/smoke.py", out=str(tmp_path / out))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_steps": 0}, "--steps is 0; expected 1 or more"),
        ({"runs": 0}, "--runs is 0; expected 1 or more"),
        ({"length": 8}, "--length is 8, and all images of a model are of one size; leave it out"),
        ({"modes": ("train",)}, "--modes is 'train' without --against; add --against torch"),
        ({"against": "torch", "sweep": "batch_size=1"}, "--against and --sweep are both given"),
        ({"against": "torch", "modes": ("trian",)}, "--modes has 'trian'; nearest: 'train'"),
        ({"against": "torch", "ways": ("eager",)}, "--ways has 'eager'; nearest: 'eager contiguous'"),
        ({"sweep": "batch=1"}, "--sweep is 'batch=1'; expected batch_size=N,N,…"),
        ({"sweep": "batch_size=8,x"}, "expected batch_size=N,N,… with sizes of 1 or more"),
        ({"sweep": "batch_size=0"}, "sizes of 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        bench.run(config="configs/smoke.py", overrides=list(SMALL.items()), **given)


def test_texts_are_cut_and_filled_to_the_length_asked_for() -> None:
    settings = bench.of_length(config.from_dict(TEXTS), 16)
    assert (settings.inputs.buckets, settings.preprocess.max_tokens) == ((16,), 16)
    with pytest.raises(UserError, match=r"--length is 33 and preprocess.max_tokens 32"):
        bench.of_length(config.from_dict(TEXTS), 33)
    with pytest.raises(UserError, match="--length is -1; expected 1 or more"):
        bench.of_length(config.from_dict(TEXTS), -1)


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_files_stand_in_for_every_kind_of_input_and_task(kind: str, task: str, tmp_path: Path) -> None:
    settings = config.from_dict({**OF_KIND[kind], "task": {"name": task}})
    given, said = stand_in.with_data(settings, tmp_path, num_examples=12)
    assert said.startswith("12 ")
    splits = build.open_splits(given)
    assert splits.keys() == {"train"}
    stats = build.label_stats(given, splits["train"])
    built = build.build(given, stats, 10)
    target = build.open_target(given, stats.label_names)
    assert target is not None
    assert (len(splits["train"]), len(target.stream), target.is_labelled) == (12, 12, False)
    transform = built.parts.input.transform(built.parts.preprocess, given.augment)
    inputs = transform(splits["train"][3]["raw"], np.random.default_rng(0))
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(inputs)}
    assert lengths == {8 if kind == "image" else 32}


def test_data_that_is_named_and_missing_is_refused(tmp_path: Path) -> None:
    overrides = [*SMALL.items(), ("data.name", "image_folder"), ("data.path", str(tmp_path / "nowhere"))]
    with pytest.raises(UserError, match="nowhere"):
        bench.run(config="configs/smoke.py", overrides=overrides)


def test_sweep_names_the_best_size_and_goes_on_where_one_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    really = build.initial_state

    def exhausted(built: Any, settings: Any, mesh: Any) -> Any:
        if settings.train.batch_size == 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return really(built, settings, mesh)

    monkeypatch.setattr(build, "initial_state", exhausted)
    overrides = list(SMALL.items())
    found = bench.run(
        config="configs/smoke.py", num_steps=1, runs=1, sweep="batch_size=8,2", overrides=overrides
    )
    small, large = found["sweep"]
    assert small["examples_per_second"] == pytest.approx(2 / small["seconds"]["median"])
    assert small["memory"]["total"] > 0
    assert large == {
        "batch_size": 8,
        "fault": "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.",
    }
    assert found["best"]["batch_size"] == 2
    assert "batch 8  not measured: RESOURCE_EXHAUSTED" in capsys.readouterr().err


def test_sweep_passes_on_what_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(build, "initial_state", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        sizes.measured(config.read("configs/smoke.py", list(SMALL.items())), Path(), Length(1, 1, 1), [2])


def test_contenders_take_turns_and_the_ratio_is_pair_by_pair() -> None:
    order: list[str] = []
    turns = [against_torch.Contender(name, lambda name=name: order.append(name)) for name in ("jtl", "torch")]
    # Of each pair: jtl from 0 to 1, then torch for 2, 3 and 1 seconds.
    moments: Iterator[float] = itertools.chain.from_iterable(
        (0.0, 1.0, 0.0, each) for each in (2.0, 3.0, 1.0)
    )
    seconds = against_torch.alternated(turns, Length(warmup=1, steps=1, runs=3), lambda: next(moments))
    assert order == ["jtl", "torch"] * 4
    assert seconds == {"jtl": [[1.0]] * 3, "torch": [[2.0], [3.0], [1.0]]}
    found = against_torch.compared({**seconds, "slow": [[5.0]] * 3})
    assert found["best"]["name"] == "torch"
    assert found["best"]["ratio"] == {"median": 2.0, "min": 1.0, "max": 3.0, "pairs": [2.0, 3.0, 1.0]}


def test_library_that_is_missing_is_named_with_the_extra() -> None:
    from jtl.verbs.bench import torch_models

    with pytest.raises(UserError, match=r"needs no_such_library, .* pip install 'jtl\[bench\]'"):
        torch_models.imported("no_such_library")


def test_torchvision_is_replaced_only_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        assert empty_torchvision.in_place() == []
    # None in its place: the import fails, whatever is installed.
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (line,) = empty_torchvision.in_place()
    assert "torchvision cannot be imported (ModuleNotFoundError)" in line
    misc = importlib.import_module("torchvision.ops.misc")
    assert isinstance(misc.FrozenBatchNorm2d, type)
    assert misc.InterpolationMode.BICUBIC is not misc.InterpolationMode.NEAREST
    for name in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


def test_models_of_pytorch_are_named_for_sizes_that_there_are() -> None:
    from jtl.verbs.bench import torch_models

    assert torch_models.BUILDERS.keys() <= MODELS.keys()
    assert torch_models.RESNETS.keys() <= MODELS["resnet"].sizes.keys()
    assert torch_models.CONVNEXTS.keys() <= MODELS["convnext"].sizes.keys()
    settings = config.from_dict({"model": {"name": "bit"}, "data": {"name": "digits"}})
    with pytest.raises(UserError, match=r"knows no model like model.name 'bit'; expected vit"):
        torch_models.make(settings, 10, (224, 224))


def test_peak_is_the_longest_name_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "MATRIX_SIZE", 64)
    assert peaks.known("NVIDIA H100 PCIe", "bfloat16") != peaks.known("NVIDIA H100 80GB HBM3", "bfloat16")
    assert peaks.known("NVIDIA H100 80GB HBM3", "float64") is None
    times = itertools.accumulate(itertools.repeat(0.5))
    found = peaks.measured("float32", 2, lambda: next(times))
    assert found.flops == 2 * peaks.MATRIX_SIZE**3 / 0.5 / 2
    assert "shared by 2 devices" in found.source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (IMAGES, {"task": {"name": "regression"}}),
        (IMAGES, {"task": {"name": "multilabel"}, "strategy": {"name": "probe"}}),
        (IMAGES, {"strategy": {"name": "mcc"}}),
        (IMAGES, {"strategy": {"name": "gradual"}, "train": {"batch_size": 4, "steps": 30}}),
        (TEXTS, {}),
        (TEXTS, {"task": {"name": "masked_tokens"}}),
    ],
)
def test_every_kind_of_run_is_measured_whole(
    base: dict[str, Any], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "read", lambda *_: config.from_dict({**base, **changes}))
    found = bench.run(config="", num_steps=1, runs=2)
    assert found["loop"]["seconds"]["num_steps"] == 2
    assert "stand in" in found["notes"][0]


@pytest.mark.slow
def test_longer_texts_take_more_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "read", lambda *_: config.from_dict(TEXTS))
    short, long = (bench.run(config="", num_steps=1, runs=1, length=length) for length in (16, 32))
    assert (short["shape"], long["shape"]) == ([4, 16], [4, 32])
    assert long["flops"]["step"] > short["flops"]["step"]
