"""Bi-Tuning: both contrasts against loops over queries, keys and positives, and batches that have none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jtl import tree
from jtl.errors import UserError
from jtl.strategies import bi_tuning
from tests import tiny

LABELS = np.asarray([0, 2, 0, 1, 2, 0, 1])
MASK = np.asarray([True, True, True, True, True, True, False])
TARGETS = np.eye(3, dtype=np.float32)[LABELS]


def _mean_log_share(scores: np.ndarray, positives: list[int]) -> float:
    return -float(log_softmax(np.float64(scores))[positives].mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _looped_classifier_contrast(logits: np.ndarray, labels: np.ndarray) -> float:
    """Eq. 3 as it is written: each example a query; keys are all examples, positives those of its class."""
    queries = range(len(labels))
    return float(
        np.mean([_mean_log_share(logits[:, labels[i]], np.flatnonzero(labels == labels[i])) for i in queries])
    )


def _looped_projector_contrast(z: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Eq. 5 as it is written, keys being the other examples; queries without a positive are left out."""
    found = []
    for query in range(len(labels)):
        others = [index for index in range(len(labels)) if index != query]
        positives = [place for place, index in enumerate(others) if labels[index] == labels[query]]
        if positives:
            found.append(_mean_log_share(z[others] @ z[query] / temperature, positives))
    return float(np.mean(found))


def test_penalty_is_both_contrasts_of_the_examples_that_count() -> None:
    """Example 3 is the only real one of its class."""
    parts, params, model_state = tiny.make_parts(
        "vit", "bi_tuning", classifier_weight=0.5, projector_weight=2.0, projection_dim=4, temperature=0.5
    )
    params["extra"]["projector"]["bias"] = np.asarray([0.1, -0.2, 0.3, 0.0], np.float32)
    images = jax.random.normal(jax.random.key(2), (7, *parts.preprocess.image_px, 3))
    batch = {"train": {"inputs": images, "label": LABELS, "target": TARGETS, "mask": MASK}}
    value, reported = tiny.penalty_of(parts, params, model_state, batch)

    own = {name: leaf for name, leaf in params.items() if name != "extra"}
    outputs = jax.jit(lambda own: parts.model.apply(own, model_state, images))(own)
    logits, features = (np.array(each)[MASK] for each in (outputs.logits, outputs.features))
    projector = params["extra"]["projector"]
    z = _unit(features @ projector["kernel"] + projector["bias"])
    of_classes = _looped_classifier_contrast(logits, LABELS[MASK])
    of_features = _looped_projector_contrast(z, LABELS[MASK], 0.5)
    assert reported["classifier_contrast"] == pytest.approx(of_classes, rel=1e-4)
    assert reported["projector_contrast"] == pytest.approx(of_features, rel=1e-4)
    assert value == pytest.approx(0.5 * of_classes + 2.0 * of_features, rel=1e-4)


def test_blended_targets_count_in_parts() -> None:
    """An example that is half of each of two classes is half a positive of both."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 2)).astype(np.float32)
    targets, mask = np.asarray([[1, 0], [0.5, 0.5], [0, 1]], np.float32), jnp.ones(3, bool)
    logs = log_softmax(logits, axis=0)
    found = bi_tuning.contrastive_cross_entropy(jnp.asarray(logits), jnp.asarray(targets), mask)
    assert float(found) == pytest.approx(-float((targets * logs).sum()) / 3, rel=1e-5)
    z = _unit(random.normal(size=(3, 4)).astype(np.float32))
    found = bi_tuning.categorical_contrast(jnp.asarray(z), jnp.asarray(targets), mask, 1.0)
    ends = [_mean_log_share(z[[1, 2]] @ z[0], [0]), _mean_log_share(z[[0, 1]] @ z[2], [1])]
    middle = _mean_log_share(z[[0, 2]] @ z[1], [0, 1])
    assert float(found) == pytest.approx((sum(ends) + middle) / 3, rel=1e-5)


def test_classes_with_one_example_each_leave_the_features_alone() -> None:
    """No positive: no contrast of features, and no gradient that is not a number."""
    z, targets, mask = jnp.ones((3, 4)) / 2, jnp.eye(3), jnp.ones(3, bool)
    value, gradient = jax.value_and_grad(bi_tuning.categorical_contrast)(z, targets, mask, 0.07)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((3, 4)))
    of_classes = jax.grad(bi_tuning.contrastive_cross_entropy)(jnp.ones((3, 3)), targets, mask)
    np.testing.assert_allclose(of_classes, (1 / 3 - np.eye(3)) / 3, atol=1e-6)


def test_projector_trains_and_is_not_written() -> None:
    parts, params, _ = tiny.make_parts("vit", "bi_tuning", projection_dim=5)
    assert params["extra"]["projector"]["kernel"].shape == (16, 5)
    assert not any(group.is_frozen for group in parts.groups.values())
    own = {name: leaf for name, leaf in tree.flatten(params).items() if not name.startswith("extra/")}
    assert tree.flatten(parts.strategy.merged(params)) == own


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classifier_weight": -1.0}, r"strategy.classifier_weight is -1.0"),
        ({"projector_weight": -1.0}, r"strategy.projector_weight is -1.0; expected 0 or more"),
        ({"projection_dim": 0}, r"strategy.projection_dim is 0"),
        ({"temperature": 0.0}, r"strategy.temperature is 0.0; expected a positive number"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bi_tuning.Config(**fields)
