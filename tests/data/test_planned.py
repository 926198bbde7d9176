"""The plan of batches whose examples lie on the devices: the examples, labels and positions of the others."""

import numpy as np
import pytest

from jtl.data import SOURCES, Labels, pipeline
from jtl.data.planned import planned_batches
from jtl.inputs import INPUTS
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess


@pytest.mark.parametrize("sampling", ["uniform", "class_balanced"])
@pytest.mark.parametrize(("start_step", "shard_index", "num_shards"), [(0, 0, 1), (7, 1, 2), (2**40, 0, 1)])
def test_plan_is_that_of_the_batches_themselves(
    sampling: str, start_step: int, shard_index: int, num_shards: int
) -> None:
    kind, image = SOURCES["digits"], INPUTS["image"]
    source = kind.open(kind.Config(name="digits"), Labels())["train"]
    preprocess = Preprocess((8, 8), 8, mean=(0.5,), std=(0.5,))
    options = {
        "batch_size": 6,
        "seed": 5,
        "start_step": start_step,
        "sampling": sampling,
        "shard_index": shard_index,
        "num_shards": num_shards,
        "config": pipeline.Config(threads=1),
    }
    whole = pipeline.train_batches(source, image.transform(preprocess, Augment()), image, **options)
    plan = planned_batches(source, **options)
    try:
        for step in range(start_step, start_step + 3):
            one, other = next(whole), next(plan)
            for name in ("id", "label", "mask"):
                np.testing.assert_array_equal(one[name], other[name])
                assert one[name].dtype == other[name].dtype
            upper, lower = other["inputs"]["position"].T.astype(np.uint64)
            rows = 6 // num_shards
            first = step * 6 + shard_index * rows
            np.testing.assert_array_equal((upper << np.uint64(32)) + lower, np.arange(first, first + rows))
            np.testing.assert_array_equal(other["inputs"]["row"], one["id"])
    finally:
        whole.close()
        plan.close()
