"""Batches of what was kept: those of the examples themselves, step for step; and fixed views of examples."""

from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import pytest

from jtl.data import kept, pipeline
from jtl.data.contract import Info
from jtl.inputs import INPUTS

CONFIG = pipeline.Config(threads=1)
COUNT, BATCH = 10, 4


class Numbers:
    """Ten numbers of two classes; a picture of one is its number."""

    info = Info("numbers", ("even", "odd"))

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"raw": index, "label": self.labels()[index], "id": index}

    def labels(self) -> np.ndarray:
        return np.arange(COUNT) % 2

    def describe(self, index: int) -> str:
        return str(index)

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        return bytes([index])


def varied(raw: Any, generator: np.random.Generator | None) -> np.ndarray:
    """Return the number, and one that is drawn."""
    assert generator is not None
    return np.array([raw, generator.integers(2**31)])


def _trained(num_views: int, start: int = 0, steps: int = 8, **options: Any) -> list[dict[str, Any]]:
    reader = pipeline.train_batches(
        Numbers(),
        varied,
        INPUTS["image"],
        batch_size=BATCH,
        seed=3,
        start_step=start,
        num_views=num_views,
        config=CONFIG,
        **options,
    )
    with closing(reader):
        return list(islice(reader, steps))


def _views(num_views: int) -> np.ndarray:
    _, key = pipeline.plan(Numbers(), "uniform", 3)
    batches = [
        batch["inputs"][batch["mask"]]
        for view in range(num_views)
        for batch in pipeline.view_batches(
            Numbers(), varied, INPUTS["image"], view=view, key=key, batch_size=BATCH, config=CONFIG
        )
    ]
    return np.concatenate(batches)


def test_an_example_has_as_many_variations_as_views_and_else_a_new_one_each_time() -> None:
    for num_views, expected in ((0, 8), (1, 1), (3, 3)):
        rows = np.concatenate([batch["inputs"] for batch in _trained(num_views, steps=20)])
        found = {tuple(row) for row in rows.tolist() if row[0] == 5}
        assert len(found) == expected


@pytest.mark.parametrize("sampling", ["uniform", "class_balanced"])
@pytest.mark.parametrize("start", [0, 5])
def test_batches_of_kept_views_are_those_of_the_examples(sampling: str, start: int) -> None:
    expected = _trained(2, start, sampling=sampling)
    reader = kept.train_batches(
        {"numbers": _views(2)},
        Numbers(),
        batch_size=BATCH,
        seed=3,
        start_step=start,
        sampling=sampling,
        num_views=2,
        config=CONFIG,
    )
    with closing(reader):
        for batch, other in zip(islice(reader, 8), expected, strict=True):
            np.testing.assert_array_equal(batch["inputs"]["numbers"], other["inputs"])
            for name in ("id", "label", "mask"):
                np.testing.assert_array_equal(batch[name], other[name])


def test_evaluation_of_what_is_kept_has_every_example_once_and_pads_the_last_batch() -> None:
    asked: list[int] = []

    def arrays() -> dict[str, np.ndarray]:
        asked.append(1)
        return {"numbers": np.arange(COUNT)}

    batches = kept.KeptEvalBatches(arrays, Numbers(), BATCH, lambda: None)
    assert (len(batches), asked) == (3, [])
    found = list(batches)
    assert [batch["mask"].sum() for batch in found] == [4, 4, 2]
    assert found[-1]["id"].tolist() == [8, 9, -1, -1]
    np.testing.assert_array_equal(
        np.concatenate([batch["inputs"]["numbers"][batch["mask"]] for batch in found]), np.arange(COUNT)
    )
    assert found[-1]["label"].tolist() == [0, 1, 0, 0]
