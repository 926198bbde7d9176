"""What stays float32 where a model computes in bfloat16, and how the compute dtype is chosen."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models import MODELS, attention, layers, rematerialise
from jtl.tasks import TASKS
from tests import tiny

# Compiles for long.
pytestmark = pytest.mark.slow

# Operations of norms, softmax and loss, and sums over tokens that share a row of a table.
EXACT = ("rsqrt", "sqrt", "log", "log1p", "reduce_max", "scatter-add", "cumsum")
PRODUCTS = ("dot_general", "conv_general_dilated")
TASK_FAMILIES = {"masked_tokens": "bert"}


def _operations(jaxpr: Any) -> Iterator[Any]:
    """Yield all operations of a traced function, those of inner functions among them."""
    for each in jaxpr.eqns:
        yield each
        for value in each.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _operations(inner)


def _dtypes(variables: Any) -> set[Any]:
    floats = {each.aval.dtype for each in variables if hasattr(each.aval, "dtype")}
    return {dtype for dtype in floats if jnp.issubdtype(dtype, jnp.floating)}


@pytest.mark.parametrize("family", MODELS)
def test_norms_softmax_and_values_stay_float32_where_products_are_bfloat16(family: str) -> None:
    model = MODELS[family].build(replace(MODELS[family].tiny(), dtype="bfloat16"), tiny.NUM_CLASSES)
    params, model_state = model.shapes()

    def loss(params: Any, model_state: Any, inputs: Any, key: Any) -> Any:
        outputs = model.apply(params, model_state, inputs, train=True, key=key)
        return jnp.sum(outputs.logits**2), outputs._replace(intermediates={})

    inputs = jax.eval_shape(lambda: tiny.inputs_of(model, 4))
    differentiate = jax.value_and_grad(loss, has_aux=True)
    traced, shapes = jax.make_jaxpr(differentiate, return_shape=True)(
        params, model_state, inputs, jax.random.key(0)
    )
    operations = list(_operations(traced.jaxpr))
    for each in operations:
        if each.primitive.name in EXACT:
            assert _dtypes(each.outvars) <= {np.dtype("float32")}, each
    halved = [
        _dtypes(each.invars) == {jnp.dtype("bfloat16")}
        for each in operations
        if each.primitive.name in PRODUCTS
    ]
    assert np.mean(halved) > 0.7
    (_, outputs), grads = shapes
    for leaf in jax.tree.leaves((outputs, grads)):
        assert leaf.dtype == jnp.float32
    # The softmax: the only exponentials of tokens by tokens; those of an activation's slope are no sums.
    for each in operations:
        if each.primitive.name == "exp" and each.outvars[0].aval.ndim == 4 and family in ("vit", "bert"):
            assert _dtypes(each.outvars) == {np.dtype("float32")}


@pytest.mark.parametrize("task", TASKS)
def test_loss_metrics_and_optimizer_stay_float32_in_every_task(task: str) -> None:
    family = TASK_FAMILIES.get(task, "vit")
    config = replace(MODELS[family].tiny(), dtype="bfloat16")
    parts, params, model_state = tiny.make_parts(family, task=task, model_config=config)
    state, reported = tiny.Trainer(parts).train(
        tiny.make_state(parts, params, model_state), [tiny.make_batch(parts, task=task)]
    )
    for leaf in jax.tree.leaves(state):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    assert np.isfinite(reported[0]["loss"])
    exact, _, _ = tiny.make_parts(family, task=task, model_config=replace(config, dtype="float32"))
    _, expected = tiny.Trainer(exact).train(
        tiny.make_state(exact, params, model_state), [tiny.make_batch(exact, task=task)]
    )
    np.testing.assert_allclose(reported[0]["loss"], expected[0]["loss"], rtol=0.03)


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("cpu", None, ("float32", "a CPU")),
        ("tpu", None, ("bfloat16", "a TPU")),
        ("gpu", "9.0", ("bfloat16", "a GPU")),
        ("gpu", "gfx942", ("bfloat16", "a GPU")),
        ("gpu", "7.5", ("float32", "a GPU of compute capability 7.5 has no units for bfloat16")),
    ],
)
def test_dtype_auto_is_what_the_device_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, platform: str, capability: str | None, expected: tuple[str, str]
) -> None:
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    name, reason = layers.auto_dtype()
    assert (name, reason[: len(expected[1])]) == expected
    assert layers.compute_dtype("auto") == layers.DTYPES[name]


def _heads(
    dtype: Any = jnp.bfloat16, tokens: int = 6, head_dim: int = 8
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return tuple(jnp.ones((2, tokens, 2, head_dim), dtype) for _ in range(3))  # pyright: ignore


@pytest.mark.parametrize(
    ("arrays", "options", "fault"),
    [
        (_heads(), {}, ""),
        (_heads(tokens=5), {}, ""),
        (_heads(jnp.float32), {}, "computes in bfloat16 or float16, not float32"),
        (_heads(head_dim=12), {}, "takes heads of up to 128 in steps of 8, not of 12"),
        (_heads(head_dim=136), {}, "takes heads of up to 128 in steps of 8, not of 136"),
        (_heads(), {"drop": lambda weights: weights}, "drops no weights of attention"),
        (
            _heads(tokens=5),
            {"mask": jnp.ones((2, 5), bool)},
            "takes padded texts of an even length",
        ),
        (_heads(), {"mask": jnp.ones((2, 6), bool)}, ""),
    ],
)
def test_cudnn_is_chosen_where_it_takes_the_arrays(
    monkeypatch: pytest.MonkeyPatch, arrays: Any, options: dict[str, Any], fault: str
) -> None:
    chosen: list[Any] = []

    def record(queries: Any, *_: Any, implementation: str, **others: Any) -> Any:
        chosen.append(implementation)
        mask = others.get("mask")
        assert mask is None or mask.shape == (2, 1, 6, 6)
        return queries

    device = SimpleNamespace(platform="gpu", compute_capability="9.0")
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    attention.attention(*arrays, **options)
    assert chosen == ([] if fault else ["cudnn"])
    if fault:
        with pytest.raises(UserError, match=rf"model.attention is 'cudnn', which {fault}.*='auto'"):
            attention.attention(*arrays, **options, implementation="cudnn")
    chosen.clear()
    attention.attention(*arrays, **options, implementation="xla")
    assert "cudnn" not in chosen


def test_cudnn_is_refused_where_there_is_no_such_gpu() -> None:
    with pytest.raises(
        UserError, match=r"'cudnn', which needs an NVIDIA GPU of compute capability 8 or more"
    ):
        attention.attention(*_heads(), implementation="cudnn")


def test_masked_attention_is_the_same_by_either_of_our_ways() -> None:
    """Without padding the weights' own path gives what jax's does."""
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, (2, 6, 2, 8)) for key in keys]
    plain = attention.attention(*arrays)
    masked = attention.attention(*arrays, mask=jnp.ones((2, 6), bool))
    np.testing.assert_allclose(masked, plain, rtol=1e-5, atol=1e-6)
    half = jnp.arange(6)[None] < jnp.array([[3], [6]])
    shorter = attention.attention(arrays[0][:1], arrays[1][:1, :3], arrays[2][:1, :3])
    np.testing.assert_allclose(attention.attention(*arrays, mask=half)[:1], shorter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_remat_policies_keep_less_and_compute_more(family: str) -> None:
    """What lies between forward and backward pass falls, and FLOPs rise, from "none" over "dots" to "full".

    The compiled memory of XLA on CPU does not show it: its scheduler computes again and keeps all the same.
    """
    found = {}
    for policy in rematerialise.POLICIES:
        model = MODELS[family].build(replace(MODELS[family].tiny(), remat=policy), tiny.NUM_CLASSES)
        params, model_state = model.shapes()
        inputs = jax.eval_shape(lambda model=model: tiny.inputs_of(model, 4))

        def loss(params: Any, model_state: Any, inputs: Any, model: Any = model) -> Any:
            return jnp.sum(model.apply(params, model_state, inputs, train=True).logits ** 2)

        kept = jax.eval_shape(lambda *given, loss=loss: jax.vjp(loss, *given)[1], params, model_state, inputs)
        num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
        cost = jax.jit(jax.grad(loss)).lower(params, model_state, inputs).cost_analysis()
        found[policy] = (num_bytes, cost["flops"])
    assert found["full"][0] < found["dots"][0] < found["none"][0]
    assert found["none"][1] < found["dots"][1] < found["full"][1]
