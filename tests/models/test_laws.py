"""The laws of every family of models, and what the public models' sizes cost."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS, Model, contract
from jtl.models.layers import layer_of
from jtl.models.linen import module_names
from tests import tiny

NUM_OUTPUTS, BATCH = 5, 4
# Their gradients compile, and trace, for long; the others hold these laws at every change.
DEEP = ("bit", "cifar_resnet", "convnext", "mobilenet_v2")
REMAT = [pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in MODELS]
IMAGES = [name for name, family in MODELS.items() if family.input == "image"]


class Built(NamedTuple):
    """A tiny model with values away from the zeros and ones it begins with, and inputs for it."""

    family: str
    model: Model
    params: Any
    model_state: Any
    inputs: Any
    compiled: Callable[..., Any]

    def apply(self, **settings: Any) -> Any:
        """Run the model compiled, which for these sizes is quicker than operation by operation."""
        return self.compiled(self.params, self.model_state, self.inputs, **settings)


@cache
def build(family: str, num_outputs: int = NUM_OUTPUTS, **changes: Any) -> Built:
    random = np.random.default_rng(0)
    config = replace(MODELS[family].tiny(), **changes)
    model = MODELS[family].build(config, num_outputs)
    params, model_state = model.init(jax.random.key(0))
    params = tree.map_named(
        lambda _, leaf: leaf + 0.2 * random.normal(size=leaf.shape).astype(leaf.dtype), params
    )
    inputs = tiny.inputs_of(model, BATCH)
    compiled = jax.jit(model.apply, static_argnames=("train", "frozen_stats"))
    return Built(family, model, params, model_state, inputs, compiled)


@cache
def gradients(family: str, **changes: Any) -> Any:
    """Return the sum of squared logits in training with the new model state, and the gradients of it."""
    one = build(family, **changes)

    def loss(params: Any) -> Any:
        outputs = one.model.apply(params, one.model_state, one.inputs, train=True, key=jax.random.key(3))
        return jnp.sum(outputs.logits**2), outputs.model_state

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(one.params)


def _first(inputs: Any) -> Any:
    """Return a batch of the first example alone."""
    return jax.tree.map(lambda leaf: leaf[:1], inputs)


@pytest.fixture(params=MODELS, scope="module")
def built(request: pytest.FixtureRequest) -> Built:
    return build(request.param)


def test_features_logits_and_intermediates_have_the_contracts_shapes(built: Built) -> None:
    outputs = jax.eval_shape(built.apply)
    assert outputs.logits.shape == (BATCH, NUM_OUTPUTS)
    assert outputs.features.ndim == 2
    assert outputs.features.shape[0] == BATCH
    assert outputs.features.dtype == outputs.logits.dtype == jnp.float32
    assert {"pre_head"} < outputs.intermediates.keys()
    assert all(value.shape[0] == BATCH for value in outputs.intermediates.values())


def test_logits_are_the_head_of_the_features(built: Built) -> None:
    outputs, head = built.apply(), built.params["head"]
    expected = np.asarray(outputs.features) @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", MODELS)
def test_without_outputs_logits_are_the_features(family: str) -> None:
    whole, headless = build(family), build(family, num_outputs=0)
    assert "head" not in headless.params
    params = {name: whole.params[name] for name in headless.params}
    outputs = headless._replace(params=params, inputs=whole.inputs).apply()
    np.testing.assert_array_equal(outputs.logits, outputs.features)
    np.testing.assert_allclose(outputs.features, whole.apply().features, rtol=1e-5, atol=1e-5)


def test_logits_begin_at_zero(built: Built) -> None:
    params, model_state = built.model.init(jax.random.key(1))
    assert not np.any(built._replace(params=params, model_state=model_state).apply().logits)


def test_init_is_a_float32_function_of_the_key_with_the_declared_shapes(built: Built) -> None:
    values, same, other = (built.model.init(jax.random.key(seed)) for seed in (0, 0, 1))
    shapes = built.model.shapes()
    assert jax.tree.structure(values) == jax.tree.structure(shapes)
    for leaf, shape in zip(jax.tree.leaves(values), jax.tree.leaves(shapes), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, np.float32) == (shape.shape, shape.dtype)
    assert tree.sha256(values[0]) == tree.sha256(same[0]) != tree.sha256(other[0])


def test_every_parameter_has_a_gradient(built: Built) -> None:
    grads = tree.flatten(gradients(built.family)[1])
    # A softmax does not see a shift of all its inputs: the bias of attention keys has no gradient.
    assert [name for name, grad in grads.items() if not np.any(grad) and not name.endswith("key/bias")] == []


def test_layers_hold_every_parameter_once_and_end_with_the_head(built: Built) -> None:
    prefixes = [prefix for layer in built.model.layers for prefix in layer]
    names = tree.flatten(built.params)
    for name in names:
        assert sum(name == prefix or name.startswith(f"{prefix}/") for prefix in prefixes) == 1, name
    for prefix in prefixes:
        assert any(name == prefix or name.startswith(f"{prefix}/") for name in names), prefix
    assert built.model.layers[-1] == ("head",)
    assert layer_of("head/kernel", built.model.layers) == len(built.model.layers) - 1


@pytest.mark.slow
def test_jit_changes_no_number(built: Built) -> None:
    plain = built.model.apply(built.params, built.model_state, built.inputs).logits
    np.testing.assert_allclose(built.apply().logits, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["full", pytest.param("dots", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", REMAT)
def test_remat_changes_no_number(family: str, policy: str) -> None:
    (value, stats), grads = gradients(family)
    (remat_value, remat_stats), remat_grads = gradients(family, remat=policy)
    pairs = list(
        zip(jax.tree.leaves((value, stats)), jax.tree.leaves((remat_value, remat_stats)), strict=True)
    )
    for plain, remat in pairs:
        np.testing.assert_allclose(remat, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())
    # A bias before a batch normalisation has no gradient, only the rounding of the others'.
    rounding = 1e-6 * max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    for plain, remat in zip(jax.tree.leaves(grads), jax.tree.leaves(remat_grads), strict=True):
        atol = max(1e-4 * float(np.abs(plain).max()), rounding)
        np.testing.assert_allclose(remat, plain, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("family", REMAT)
def test_remat_computes_blocks_again(family: str) -> None:
    def flops(**changes: Any) -> float:
        one = build(family, **changes)
        loss = jax.grad(
            lambda params, inputs: jnp.sum(one.model.apply(params, one.model_state, inputs).logits)
        )
        return jax.jit(loss).lower(one.params, one.inputs).cost_analysis()["flops"]

    # What lies before the first block and after the last convolution of each is not computed again.
    assert 1.1 < flops(remat="full") / flops() < 1.34


@pytest.mark.parametrize("family", MODELS)
def test_bfloat16_computes_near_float32_and_gives_float32(family: str) -> None:
    plain, half = build(family), build(family, dtype="bfloat16")
    found = jax.eval_shape(partial(half.apply, train=True))
    assert found.logits.dtype == found.features.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found.model_state))
    computed = [value for name, value in found.intermediates.items() if name != "pre_head"]
    assert all(value.dtype == jnp.bfloat16 for value in computed)
    expected, found = plain.apply().logits, half.apply().logits
    # bfloat16 has 8 bits: 0.4 % a rounding.
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_evaluation_is_independent_of_the_rest_of_the_batch(built: Built) -> None:
    whole = built.apply().logits
    alone = built._replace(inputs=_first(built.inputs)).apply().logits
    np.testing.assert_allclose(alone, whole[:1], rtol=1e-5, atol=1e-5)


def test_evaluation_returns_the_model_state_it_was_given(built: Built) -> None:
    # A trace runs the model's own Python, of which a compiled program gives but copies.
    returned: list[Any] = []

    def run() -> None:
        returned.append(built.model.apply(built.params, built.model_state, built.inputs).model_state)

    jax.eval_shape(run)
    assert returned[0] is built.model_state


def test_training_works_on_one_example(built: Built) -> None:
    outputs = built._replace(inputs=_first(built.inputs)).apply(train=True)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(outputs))


def test_frozen_statistics_keep_their_bits_and_normalise_as_in_evaluation(built: Built) -> None:
    names = module_names(built.model_state)
    frozen = built.apply(train=True, frozen_stats=names)
    np.testing.assert_allclose(frozen.logits, built.apply().logits, rtol=1e-5, atol=1e-5)
    for name, leaf in tree.flatten(frozen.model_state).items():
        assert np.asarray(leaf).tobytes() == tree.flatten(built.model_state)[name].tobytes()
    for one in sorted(names)[:1]:
        state = built.apply(train=True, frozen_stats=frozenset({one})).model_state
        before, after = tree.flatten(built.model_state), tree.flatten(state)
        kept = {name for name, leaf in after.items() if np.array_equal(leaf, before[name])}
        assert kept == {f"batch_stats/{one}/mean", f"batch_stats/{one}/var"}


def test_unknown_frozen_statistics_are_refused(built: Built) -> None:
    with pytest.raises(AssertionError, match="without running statistics"):
        built.apply(train=True, frozen_stats=frozenset({"block9/bn1"}))


@pytest.mark.parametrize("family", MODELS)
def test_head_dropout_is_a_function_of_the_key_and_only_in_training(family: str) -> None:
    one = build(family, head_widths=(6, 7), head_dropout=0.5, head_activation="relu")
    assert one.params["head"].keys() == {"hidden0", "hidden1", "out"}
    assert one.params["head"]["out"]["kernel"].shape == (7, NUM_OUTPUTS)
    first, same, other = (one.apply(train=True, key=jax.random.key(seed)).logits for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    evaluated, keyed = (one.apply(key=jax.random.key(seed)).logits for seed in (0, 1))
    np.testing.assert_array_equal(evaluated, keyed)


@pytest.mark.parametrize("family", IMAGES)
def test_other_channels_and_sizes_build(family: str) -> None:
    config = replace(MODELS[family].tiny(), image_px=(16, 24))
    model = MODELS[family].build(config, NUM_OUTPUTS, num_channels=1)
    assert model.preprocess.image_px == (16, 24)
    assert len(model.preprocess.mean) == len(model.preprocess.std) == 1
    images = jax.ShapeDtypeStruct((2, 16, 24, 1), np.float32)
    assert jax.eval_shape(model.apply, *model.shapes(), images).logits.shape == (2, NUM_OUTPUTS)


@pytest.mark.parametrize("family", IMAGES)
def test_images_of_another_size_are_refused(family: str) -> None:
    with pytest.raises(
        UserError, match=r"images are \(4, 4, 3\); the model expects .*; change model.image_px"
    ):
        build(family)._replace(inputs=np.zeros((1, 4, 4, 3), np.float32)).apply()


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "huge"}, "model.size is 'huge'; expected one of .*; nearest: "),
        ({"dtype": "float16"}, "model.dtype is 'float16'; expected one of .*; nearest: "),
        ({"head_dropout": 1.0}, "model.head_dropout is 1.0; expected 0 <= value < 1"),
        ({"head_widths": (0,)}, r"model.head_widths is \(0,\); expected 1 <= value"),
        ({"head_activation": "swish"}, "model.head_activation is 'swish'; expected one of"),
    ],
)
def test_settings_out_of_range_are_refused(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(MODELS[family].tiny(), **changes)


@pytest.mark.parametrize("family", IMAGES)
def test_images_without_pixels_are_refused(family: str) -> None:
    with pytest.raises(UserError, match=r"model.image_px is \(0, 8\); expected pixels"):
        replace(MODELS[family].tiny(), image_px=(0, 8))


@pytest.mark.parametrize("family", MODELS)
def test_a_head_of_a_kind_that_the_family_has_not_is_refused(family: str) -> None:
    kind, config = MODELS[family], MODELS[family].tiny()
    for reads in kind.reads:
        assert contract.build(kind, config, NUM_OUTPUTS, reads=reads).layers[-1] == ("head",)
    with pytest.raises(UserError, match=rf"model.name is '{family}', whose head reads features.* needs one"):
        contract.build(kind, config, NUM_OUTPUTS, reads="boxes")


@pytest.mark.parametrize("family", MODELS)
def test_inputs_of_the_spec_can_be_read_and_every_layer_pooled(family: str) -> None:
    one = build(family)
    inputs = contract.batch_of(one.model.spec, 2)
    outputs = jax.eval_shape(one.model.apply, one.params, one.model_state, inputs)
    for name, value in outputs.intermediates.items():
        pooled = jax.eval_shape(lambda layer, read: one.model.pool(layer, read, "mean"), value, inputs)
        assert (pooled.shape, pooled.dtype) == ((2, value.shape[-1]), jnp.float32), name


@pytest.mark.parametrize(
    ("family", "size", "num_parameters"),
    [
        ("vit", "ti16", 5_717_416),
        ("vit", "s16", 22_050_664),
        ("vit", "b16", 86_567_656),
        ("vit", "b32", 88_224_232),
        pytest.param("vit", "l16", 304_326_632, marks=pytest.mark.slow),
        pytest.param("vit", "h14", 632_045_800, marks=pytest.mark.slow),
        ("resnet", "18", 11_689_512),
        ("resnet", "34", 21_797_672),
        ("resnet", "50", 25_557_032),
        pytest.param("resnet", "101", 44_549_160, marks=pytest.mark.slow),
        pytest.param("resnet", "152", 60_192_808, marks=pytest.mark.slow),
    ],
)
def test_sizes_have_the_published_number_of_parameters(family: str, size: str, num_parameters: int) -> None:
    model = MODELS[family].build(MODELS[family].Config(size=size), 1000)
    assert tree.num_values(model.shapes()[0]) == num_parameters


# He et al. 2016, table 6 (rounded there to 0.01 M).
@pytest.mark.parametrize(("size", "millions"), [("20", 0.27), ("32", 0.46), ("44", 0.66), ("56", 0.85)])
def test_cifar_resnets_have_the_papers_number_of_parameters(size: str, millions: float) -> None:
    model = MODELS["cifar_resnet"].build(MODELS["cifar_resnet"].Config(size=size), 10)
    assert round(tree.num_values(model.shapes()[0]) / 1e6, 2) == millions


# Twice the published multiply-adds (timm 1.0.31's results tables: 1.26, 1.82 and 4.11 G). XLA does not count
# products with padding, which is 7 % of ResNet-18.
@pytest.mark.parametrize(
    ("family", "size", "gflop"), [("vit", "ti16", 2.52), ("resnet", "18", 3.64), ("resnet", "50", 8.22)]
)
def test_forward_pass_costs_the_published_flops(family: str, size: str, gflop: float) -> None:
    model = MODELS[family].build(MODELS[family].Config(size=size), 1000)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    forward = jax.jit(lambda params, state, images: model.apply(params, state, images).logits)
    cost = forward.lower(*model.shapes(), image).cost_analysis()
    assert cost["flops"] / 1e9 == pytest.approx(gflop, rel=0.08)
