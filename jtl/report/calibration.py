"""Whether probabilities are what they say: the expected calibration error and its reliability diagram."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jtl.metrics import ratio

NUM_BINS = 15


class Bins(NamedTuple):
    """The bin of each example [n], by its confidence: the probability of the class it is taken for."""

    place: np.ndarray
    confidence: np.ndarray
    is_right: np.ndarray


def binned(confidence: Float[np.ndarray, " n"], is_right: Bool[np.ndarray, " n"]) -> Bins:
    """Return the examples in `NUM_BINS` bins of equal width from 0 to 1, each with its upper end."""
    place = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return Bins(place, confidence, is_right.astype(np.float64))


def error(bins: Bins, weights: Float[np.ndarray, "s n"]) -> Float[np.ndarray, " s"]:
    """Return the mean over the examples of |accuracy - confidence| of their bin (Guo et al. 2017, eq. 3).

    Of few examples it is too large: bins differ by chance. Sets drawn from them differ more.
    """
    gaps = np.zeros((len(bins.place), NUM_BINS))
    gaps[np.arange(len(bins.place)), bins.place] = bins.is_right - bins.confidence
    return np.sum(np.abs(weights @ gaps), axis=1) / weights.sum(1)


def diagram(bins: Bins) -> list[dict[str, Any]]:
    """Return a row a bin that is not empty: its bounds, examples, mean confidence and accuracy."""
    counts = np.bincount(bins.place, minlength=NUM_BINS)
    confidence = ratio(np.bincount(bins.place, bins.confidence, NUM_BINS), counts)
    accuracy = ratio(np.bincount(bins.place, bins.is_right, NUM_BINS), counts)
    return [
        {
            "from": place / NUM_BINS,
            "to": (place + 1) / NUM_BINS,
            "count": int(counts[place]),
            "confidence": float(confidence[place]),
            "accuracy": float(accuracy[place]),
        }
        for place in np.flatnonzero(counts).tolist()
    ]
