"""Co-Tuning: the relationship of classes, the source head's loss by hand, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jtl import tree
from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.models import MODELS
from jtl.strategies import Classifier, Context, co_tuning
from tests import tiny


@pytest.fixture(scope="module")
def run() -> tuple[Any, Any, Any]:
    """A tiny run with a weight that shows."""
    return tiny.make_parts("vit", "co_tuning", weight=0.75, temperature=2.0)


def _prepared(run: tuple[Any, Any, Any]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return the extras after `prepare`, and the features and labels it saw: no example of class 1."""
    parts, params, _ = run
    features = np.random.default_rng(0).normal(size=(9, 16)).astype(np.float32)
    labels = np.asarray([0, 0, 2, 2, 2, 0, 0, 2, 0])
    return parts.strategy.prepare(params["extra"], features, labels), features, labels


def test_relationship_is_the_mean_probability_of_source_classes_over_a_class(run: tuple) -> None:
    extra, features, labels = _prepared(run)
    head = run[1]["extra"]["source_head"]
    logits = features @ head["kernel"] + head["bias"]
    probabilities = softmax(logits / 2.0, axis=-1)
    expected = [probabilities[labels == 0].mean(0), probabilities.mean(0), probabilities[labels == 2].mean(0)]
    assert np.abs(expected[0] - expected[2]).max() > 0.01
    np.testing.assert_allclose(extra["relationship"], expected, rtol=1e-5)
    np.testing.assert_array_equal(extra["source_head"]["kernel"], head["kernel"])


def test_penalty_is_the_cross_entropy_of_the_source_head_with_blended_targets(run: tuple) -> None:
    parts, params, model_state = run
    params = {**params, "extra": _prepared(run)[0]}
    targets = np.asarray([[1, 0, 0], [0, 0, 1], [0.3, 0.7, 0], [0, 1, 0]], np.float32)
    images = jax.random.normal(jax.random.key(2), (4, *parts.preprocess.image_px, 3))
    mask = jnp.asarray([True, True, True, False])
    batch = {"train": {"inputs": images, "target": targets, "mask": mask}}
    value, reported = tiny.penalty_of(parts, params, model_state, batch)

    own = {name: leaf for name, leaf in params.items() if name != "extra"}
    features = np.array(jax.jit(parts.model.apply)(own, model_state, images).features)
    head = params["extra"]["source_head"]
    logits = features @ head["kernel"] + head["bias"]
    soft = targets @ params["extra"]["relationship"]
    expected = float(-(soft * log_softmax(logits, axis=-1)).sum(-1)[:3].mean())
    assert reported["source_loss"] == pytest.approx(expected, rel=1e-5)
    assert value == pytest.approx(0.75 * expected, rel=1e-5)


def test_source_head_trains_relationship_stays_and_neither_is_written(run: tuple) -> None:
    parts, params, _ = run
    frozen = {name for name, group in parts.groups.items() if group.is_frozen}
    assert frozen == {"extra/relationship"}
    assert {"extra/source_head/kernel", "extra/source_head/bias"} <= parts.groups.keys()
    own = {name: leaf for name, leaf in tree.flatten(params).items() if not name.startswith("extra/")}
    assert tree.flatten(parts.strategy.merged(params)) == own


def _context(width: int, classifier: Any) -> Context:
    built = MODELS["vit"].build(MODELS["vit"].tiny(), 3)
    params, model_state = built.init(jax.random.key(0))
    outputs = jax.eval_shape(
        lambda: built.apply(params, model_state, jnp.zeros((1, *built.preprocess.image_px, 3)))
    )
    outputs = outputs._replace(features=jax.ShapeDtypeStruct((1, width), jnp.float32))
    return Context(built.layers, 1, outputs=lambda: outputs, classifier=classifier)


@pytest.mark.parametrize(
    ("width", "head", "message"),
    [
        (32, {"kernel": np.zeros((16, 3)), "bias": np.zeros(3)}, r"found 32 features .* reads 16"),
        (16, {"hidden0": {}, "out": {}}, "has hidden0, out; strategy 'co_tuning' expects a linear one"),
    ],
)
def test_another_kind_of_head_is_refused(width: int, head: Any, message: str) -> None:
    built = MODELS["vit"].build(MODELS["vit"].tiny(), 3)
    source = Classifier(INPUTS["image"], built, {"head": head}, {}, tuple("abc"), built.preprocess)
    with pytest.raises(UserError, match=message):
        co_tuning.build(co_tuning.Config(), _context(width, lambda spec: source))


@pytest.mark.parametrize(("name", "value"), [("weight", -1.0), ("temperature", 0.0)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"strategy.{name} is {value}; expected"):
        co_tuning.Config(**{name: value})


@pytest.mark.parametrize("strategy", ["co_tuning", "bi_tuning"])
def test_a_task_of_several_labels_is_refused(strategy: str) -> None:
    message = (
        rf"strategy '{strategy}' needs probabilities of classes .*set task.name='multiclass', or another"
    )
    with pytest.raises(UserError, match=message):
        tiny.make_parts("vit", strategy, task="multilabel")
