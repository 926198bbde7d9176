"""Logits of which the predictions are the mean of several models' predictions, for every task."""

import jax.numpy as jnp
import numpy as np
import pytest

from jtl.tasks import TASKS
from tests import tiny


@pytest.mark.parametrize("name", tiny.LABELS)
def test_averaged_logits_predict_the_mean_of_the_predictions(name: str) -> None:
    """Also where a member is certain: 200 is past what a float32 softmax keeps of the others."""
    kind = TASKS[name]
    task = kind.build(
        kind.Config(), kind.stats(tiny.LABELS[name](np.random.default_rng(0), 30), tuple("abc"))
    )
    logits = np.random.default_rng(1).normal(size=(4, 5, 3), scale=3).astype(np.float32)
    logits[0, 0, 0] = 200.0
    averaged = task.averaged(jnp.asarray(logits))
    expected = np.mean([task.predictions(each) for each in logits], axis=0)
    np.testing.assert_allclose(task.predictions(averaged), expected, rtol=2e-5, atol=1e-7)
    assert np.isfinite(averaged).all()
