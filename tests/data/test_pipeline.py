"""The plan of batches: a pure function of (seed, step), whoever reads it."""

import gc
import itertools
import multiprocessing
import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.data import ahead, pipeline
from jtl.data.contract import Info
from jtl.data.files import Files
from jtl.data.pipeline import Config, eval_batches, train_batches
from jtl.data.sources.arrays import Arrays
from jtl.errors import UserError
from jtl.inputs import image
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess
from tests.data.conftest import pixels, png

SIZE = 23
PREPROCESS = Preprocess((8, 8), resize_px=8)
TRAIN = image.transform(PREPROCESS, Augment(color_jitter=0.3, policy="trivialaugment"))
EVAL = image.transform(PREPROCESS, None)


def source(size: int = SIZE) -> Arrays:
    images = np.stack([pixels(seed) for seed in range(size)])
    return Arrays(Info("set", ("a", "b", "c")), images, np.arange(size) % 3)


def take(count: int, **settings: Any) -> list[pipeline.Batch]:
    config = settings.pop("config", Config(threads=2))
    batches = train_batches(
        source(), TRAIN, image.INPUT, **{"batch_size": 4, "seed": 0, "config": config, **settings}
    )
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def assert_equal(left: list[pipeline.Batch], right: list[pipeline.Batch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def ids(batches: Iterable[pipeline.Batch]) -> list[int]:
    return [int(each) for batch in batches for each in batch["id"]]


def test_a_batch_has_images_labels_ids_and_a_mask() -> None:
    (batch,) = take(1)
    assert batch["inputs"].shape == (4, 8, 8, 3)
    assert batch["inputs"].dtype == np.uint8
    assert batch["label"].tolist() == (batch["id"] % 3).tolist()
    assert batch["label"].dtype == np.int64
    assert batch["id"].dtype == np.int64
    assert batch["mask"].tolist() == [True] * 4


def test_each_epoch_is_another_permutation_and_nothing_is_dropped_between_them() -> None:
    order = ids(take(3 * SIZE))[: 12 * SIZE]
    epochs = [tuple(order[start : start + SIZE]) for start in range(0, len(order), SIZE)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len(set(epochs)) == len(epochs) == 12


def test_batches_may_be_larger_than_the_set() -> None:
    assert np.bincount(ids(take(2, batch_size=3 * SIZE))).tolist() == [6] * SIZE


def test_orders_of_neighbouring_seeds_are_unrelated() -> None:
    orders = [ids(take(30, seed=seed)) for seed in (0, 1)]
    assert orders[0][SIZE : 4 * SIZE] != orders[1][: 3 * SIZE]
    assert orders[0] != orders[1]


def test_an_example_is_varied_anew_in_every_epoch() -> None:
    batches = take(12)
    views = {
        bytes(view)
        for batch in batches
        for view, each in zip(batch["inputs"], batch["id"], strict=True)
        if each == 5
    }
    assert len(views) >= 2


@pytest.mark.parametrize("start", [1, 5, 6, 1000])
def test_starting_at_a_step_is_skipping_to_it(start: int) -> None:
    if start == 1000:
        assert_equal(take(2, start_step=1001), take(3, start_step=1000)[1:])
    else:
        assert_equal(take(8, start_step=start), take(8 + start)[start:])


@pytest.mark.parametrize("config", [Config(threads=1, prefetch=1), Config(threads=5, prefetch=9), Config()])
def test_threads_change_nothing(config: Config) -> None:
    assert_equal(take(9, config=config), take(9))


@pytest.mark.slow
def test_worker_processes_change_nothing() -> None:
    expected = take(7, start_step=3)
    for workers in (1, 3):
        assert_equal(take(7, start_step=3, config=Config(threads=1, workers=workers)), expected)


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_shards_are_consecutive_rows_of_the_whole_batch(num_shards: int) -> None:
    shards = [take(8, start_step=2, shard_index=index, num_shards=num_shards) for index in range(num_shards)]
    joined = [
        {name: np.concatenate([shard[name] for shard in step]) for name in step[0]}
        for step in zip(*shards, strict=True)
    ]
    assert_equal(joined, take(8, start_step=2))


def test_closing_releases_the_threads() -> None:
    before = threading.active_count()
    for _ in range(3):
        batches = train_batches(source(), TRAIN, image.INPUT, batch_size=4, seed=0, config=Config(threads=3))
        next(batches)
        batches.close()
    for thread in threading.enumerate():
        if "grain" in thread.name:
            thread.join(timeout=5)
    assert threading.active_count() <= before


def test_an_unreadable_image_reaches_the_reader_as_the_users_error(tmp_path: Path) -> None:
    for place in range(4):
        (tmp_path / f"{place}.png").write_bytes(png(pixels(place)) if place else b"broken")
    files = Files(
        Info("set", ("a",)), str(tmp_path), tuple(f"{place}.png" for place in range(4)), np.zeros(4, np.int64)
    )
    with pytest.raises(
        UserError, match=r"cannot read .*0.png: .*; mend or remove it .* data.max_unreadable=1"
    ):
        list(eval_batches(files, EVAL, image.INPUT, batch_size=2, config=Config(threads=2)))


@pytest.mark.parametrize(
    ("batch_size", "num_shards"),
    [(1, 1), (2, 1), (5, 1), (22, 1), (23, 1), (24, 1), (100, 1), (2, 2), (22, 2), (24, 2), (100, 4)],
)
def test_evaluation_gives_every_example_once_in_order_for_any_batch_size(
    batch_size: int, num_shards: int
) -> None:
    seen: list[int] = []
    for index in range(num_shards):
        batches = eval_batches(
            source(),
            EVAL,
            image.INPUT,
            batch_size=batch_size,
            config=Config(threads=2),
            shard_index=index,
            num_shards=num_shards,
        )
        found = list(batches)
        assert len(found) == len(batches) == -(-SIZE // batch_size)
        for batch in found:
            assert batch["inputs"].shape == (batch_size // num_shards, 8, 8, 3)
            assert (batch["id"][~batch["mask"]] == pipeline.PADDING_ID).all()
            assert not batch["inputs"][~batch["mask"]].any()
            assert not batch["label"][~batch["mask"]].any()
            for row in np.flatnonzero(batch["mask"]):
                np.testing.assert_array_equal(batch["inputs"][row], EVAL(pixels(int(batch["id"][row])), None))
                assert batch["label"][row] == batch["id"][row] % 3
        own = [each for batch in found for each in batch["id"][batch["mask"]].tolist()]
        assert own == sorted(own)
        seen += own
    assert sorted(seen) == list(range(SIZE))


class Counting:
    """A transform that counts its calls."""

    calls = 0

    def __call__(self, raw: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        self.calls += 1
        return EVAL(raw, rng)


@pytest.mark.parametrize(
    ("cache_bytes", "is_read_again", "calls"),
    [(10**6, True, SIZE), (1000, True, 3 * SIZE), (0, True, 3 * SIZE), (10**6, False, 3 * SIZE)],
)
def test_evaluation_inputs_that_fit_and_are_read_again_are_transformed_once(
    cache_bytes: int, is_read_again: bool, calls: int
) -> None:
    transform = Counting()
    batches = eval_batches(
        source(),
        transform,
        image.INPUT,
        batch_size=5,
        config=Config(threads=1, cache_bytes=cache_bytes),
        is_read_again=is_read_again,
    )
    passes = [list(batches) for _ in range(3)]
    assert transform.calls == calls
    assert_equal(passes[0], passes[2])


def test_batches_of_a_split_that_is_read_once_are_let_go() -> None:
    batches = eval_batches(source(), EVAL, image.INPUT, batch_size=5, config=Config(threads=1))
    held = [weakref.ref(batch["inputs"]) for batch in batches]
    gc.collect()
    assert [each() for each in held[:-1]] == [None] * (len(held) - 1)


def test_read_ahead_is_bounded_by_bytes_in_all_processes_together() -> None:
    # 64 threads of batches of 256 x 224 x 224 x 3 bytes kept 2.5 GB.
    num_bytes = pipeline._num_bytes(image.INPUT, Preprocess(), 256)
    assert num_bytes == 256 * 224 * 224 * 3
    for changes, expected in (
        ({}, (55, 55)),
        ({"workers": 8}, (6, 6)),
        ({"prefetch_bytes": 0}, (1, 1)),
        ({"prefetch_bytes": 1 << 40}, (64, 64)),
        ({"threads": 2}, (2, 4)),
    ):
        assert ahead.room(Config(**{"threads": 64, **changes}), num_bytes) == expected
    # Where nothing says how large a batch is, there is nothing to go by.
    assert ahead.room(Config(threads=64), 0) == (64, 64)


def _own_process(raw: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Return where it runs in place of the pixels."""
    del raw, rng
    return np.array([os.getpid()])


@pytest.mark.slow
@pytest.mark.parametrize("is_read_again", [True, False])
def test_worker_processes_stay_for_the_next_pass_and_end_with_the_batches(is_read_again: bool) -> None:
    config = Config(threads=1, workers=1, cache_bytes=0)
    batches = eval_batches(
        source(), _own_process, image.INPUT, batch_size=5, config=config, is_read_again=is_read_again
    )
    passes = [list(batches) for _ in range(3)]
    workers = {int(pid) for found in passes for batch in found for pid in batch["inputs"][batch["mask"], 0]}
    assert os.getpid() not in workers
    assert len(workers) == (1 if is_read_again else 3)
    for found in passes:
        assert [int(each) for batch in found for each in batch["id"][batch["mask"]]] == list(range(SIZE))
    assert len(multiprocessing.active_children()) == (1 if is_read_again else 0)
    batches.close()
    assert multiprocessing.active_children() == []


def test_passes_of_one_reader_are_the_same_and_end_where_the_split_does() -> None:
    once = eval_batches(source(), EVAL, image.INPUT, batch_size=5, config=Config(threads=1))
    again = pipeline._Repeated(once._batches)
    for index in range(2 * len(once)):
        assert_equal([again[index]], [once._batches[index % len(once)]])


def test_a_pass_that_was_broken_off_is_not_kept() -> None:
    batches = eval_batches(source(), EVAL, image.INPUT, batch_size=5, config=Config(threads=1))
    next(iter(batches))
    assert sum(batch["mask"].sum() for batch in batches) == SIZE


def test_an_unreadable_example_is_blank_and_named_where_one_stands_in_for_it(tmp_path: Path) -> None:
    for place in range(3):
        (tmp_path / f"{place}.png").write_bytes(b"broken" if place == 1 else png(pixels(place)))
    files = Files(Info("set", ()), str(tmp_path), tuple(f"{place}.png" for place in range(3)), None)
    blank = np.zeros((8, 8, 3), np.uint8)
    batches = eval_batches(files, EVAL, image.INPUT, batch_size=4, config=Config(threads=1), blank=blank)
    (batch,) = list(batches)
    assert "label" not in batch
    assert batch["mask"].tolist() == [True, True, True, False]
    assert [bool(fault) for fault in batch["fault"]] == [False, True, False, False]
    assert "1.png" in batch["fault"][1]
    assert "max_unreadable" not in batch["fault"][1]
    assert not batch["inputs"][1].any()
    np.testing.assert_array_equal(batch["inputs"][2], EVAL(pixels(2), None))


def test_a_batch_size_that_cannot_be_cut_is_an_error() -> None:
    with pytest.raises(UserError, match="batch size is 5, expected a positive multiple of 2"):
        next(train_batches(source(), TRAIN, image.INPUT, batch_size=5, seed=0, config=Config(), num_shards=2))


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", -1), ("workers", -1), ("prefetch", 0), ("prefetch_bytes", -1), ("cache_bytes", -1)],
)
def test_a_setting_out_of_range_is_an_error(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"inputs.{name} is {value}; expected"):
        Config(**{name: value})
