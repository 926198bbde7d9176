"""Whether an artefact says what the model says: both read the same examples, from bytes to logits."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jtl import predictor as predictors
from jtl.data import Source
from jtl.predictor import Predictor, Values

# float32, whole models: what another order of the same sums makes (see the tests of goldens).
TOLERANCE = 1e-4
# Of int8 weights: the share of examples whose class must be the same.
MIN_SAME = 0.99


class Parity(NamedTuple):
    """How two models differ on `num_examples`.

    `largest` is the largest absolute difference of a logit, `scale` the largest logit; `num_same` counts
    examples whose largest logit is of the same output.
    """

    num_examples: int
    largest: float
    scale: float
    num_same: int

    def described(self) -> str:
        """Return the figures in one line.

        >>> Parity(153, 2.5e-06, 8.25, 153).described()
        'largest difference of a logit 2.5e-06 (logits up to 8.2), same class for 153 of 153'
        """
        return (
            f"largest difference of a logit {self.largest:.1e} (logits up to {self.scale:.1f}), same class "
            f"for {self.num_same:,} of {self.num_examples:,}"
        )


def logits(predictor: Predictor, source: Source, batch_size: int) -> Float[np.ndarray, "examples outputs"]:
    """Return the logits of every example of the source, in its order."""

    def of_batch(values: Values, inputs: Any) -> Any:
        return predictors.forward(predictor, values, inputs).logits

    compiled: Callable[..., Any] = jax.jit(of_batch)
    batches = predictors.batches(predictor, source, batch_size)

    def rows() -> Iterator[np.ndarray]:
        for batch, found in predictors.stepped(predictor, compiled, batches):
            yield np.asarray(found)[batch["mask"]]

    return np.concatenate(list(rows()))


def compared(
    found: Float[np.ndarray, "examples outputs"], expected: Float[np.ndarray, "examples outputs"]
) -> Parity:
    """Return how logits differ from those expected.

    >>> compared(np.array([[0.0, 1.0]]), np.array([[0.0, 0.5]]))
    Parity(num_examples=1, largest=0.5, scale=0.5, num_same=1)
    """
    difference = np.abs(np.float64(found) - np.float64(expected))
    same = found.argmax(axis=-1) == expected.argmax(axis=-1)
    largest = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    return Parity(len(expected), largest, float(np.abs(expected).max()), int(same.sum()))
