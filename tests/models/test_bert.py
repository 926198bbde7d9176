"""Text encoders against transformers, layer by layer: `tests/goldens/make_text.py` made `text.npz`."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import Model, bert, contract
from jtl.models.contract import FEATURES, VOCABULARY
from jtl.weights import FAMILIES
from jtl.weights.names import assign
from tests import tiny
from tests.goldens import draws

GOLDENS = Path(__file__).parents[1] / "goldens" / "text.npz"
WIDTHS: dict[str, Any] = {
    **{"vocabulary": 50, "dim": 32, "depth": 3, "heads": 4, "mlp_dim": 64, "num_positions": 24},
    **{"pool": "pooler", "dropout": 0.0, "attention_dropout": 0.0},
}
CONFIGS = {
    "bert": bert.Config(size="bert_base", **WIDTHS),
    "roberta": bert.Config(size="roberta_base", **WIDTHS),
    "distilbert": bert.Config(size="distilbert_base", **WIDTHS),
}
READS = {"classes": FEATURES, "words": VOCABULARY}
# Whose names a golden's tensors have: of PyTorch's classes for classes and for words.
ORIGINS = {
    ("bert", "classes"): "bert",
    ("bert", "words"): "bert",
    ("roberta", "classes"): "roberta_classifier",
    ("roberta", "words"): "roberta",
    ("distilbert", "classes"): "distilbert",
    ("distilbert", "words"): "distilbert",
}
TINY = bert.tiny()


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return {name: file[name] for name in file.files}


@cache
def built(name: str, task: str) -> tuple[Model, Any]:
    model = contract.build(bert.FAMILY, CONFIGS[name], draws.NUM_CLASSES, reads=READS[task])
    return model, jax.jit(model.apply)


def drawn(name: str, task: str, goldens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the leaves of the model with the weights the script drew under PyTorch's names."""
    shapes = json.loads(str(goldens[f"{name}/{task}/shapes"]))
    tensors = {key: draws.tensor(f"{name}/{task}", key, tuple(shape)) for key, shape in shapes.items()}
    return leaves_of(name, task, f"huggingface_{ORIGINS[name, task]}", tensors)


def leaves_of(name: str, task: str, origin: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    leaves = tree.flatten({"params": built(name, task)[0].shapes()[0]})
    assignment = assign.assign(FAMILIES["bert"].origins[origin], tensors)
    assert assignment.unknown == ()
    values: dict[str, np.ndarray] = {}
    for source, (row, targets) in assignment.filled.items():
        expected = tuple(tuple(leaves[target].shape) for target in targets)
        values |= zip(targets, row.op.forward(tensors[source], expected), strict=True)
    assert {leaf: value.shape for leaf, value in values.items()} == {
        leaf: each.shape for leaf, each in leaves.items()
    }
    return values


def run(name: str, task: str, leaves: dict[str, np.ndarray], cut: Any = (), **more: Any) -> Any:
    _, apply = built(name, task)
    texts = {key: each[cut] for key, each in draws.texts(name).items()}
    return apply(tree.unflatten(leaves)["params"], {}, {**texts, **more})


def test_the_goldens_say_what_made_them(goldens: dict[str, np.ndarray]) -> None:
    made_with = json.loads(str(goldens["made_with"]))
    assert made_with["script"] == "tests/goldens/make_text.py"
    assert (made_with["torch"], made_with["transformers"]) == ("2.13.0+cpu", "5.24.0")


@pytest.mark.parametrize("name", CONFIGS)
def test_encoder_is_transformers_layer_by_layer_and_so_are_its_classes(
    name: str, goldens: dict[str, np.ndarray]
) -> None:
    outputs, mask = run(name, "classes", drawn(name, "classes", goldens)), draws.texts(name)["mask"]
    for index, layer in enumerate(("embedding", "block0", "block1", "block2")):
        golden = goldens[f"{name}/layers/{index}"]
        found = draws.sampled(str(index), np.asarray(outputs.intermediates[layer])[mask])
        np.testing.assert_allclose(found, golden, rtol=0, atol=1e-5 * np.abs(golden).max(), err_msg=layer)
    np.testing.assert_allclose(outputs.logits, goldens[f"{name}/classes/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_masked_words_are_told_as_transformers_does(name: str, goldens: dict[str, np.ndarray]) -> None:
    leaves, mask = drawn(name, "words", goldens), draws.texts(name)["mask"]
    logits = np.asarray(run(name, "words", leaves).logits)
    golden = goldens[f"{name}/words/logits"]
    np.testing.assert_allclose(logits[mask], golden, rtol=0, atol=1e-4)
    places = np.array([[3, 0], [6, 1], [2, 2]], np.int32)
    chosen = run(name, "words", leaves, places=places).logits
    np.testing.assert_allclose(chosen, np.take_along_axis(logits, places[..., None], 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "task"), ORIGINS)
def test_flax_classes_names_and_layout_are_pytorchs_numbers(
    name: str, task: str, goldens: dict[str, np.ndarray]
) -> None:
    """Flax's classes (transformers 4) renamed by hand: paths, `kernel`, `scale`, `embedding`, transposed."""
    shapes = json.loads(str(goldens[f"{name}/{task}/shapes"]))
    tensors = {key: draws.tensor(f"{name}/{task}", key, tuple(shape)) for key, shape in shapes.items()}
    flax: dict[str, np.ndarray] = {}
    for key, array in tensors.items():
        stem, _, leaf = key.rpartition(".")
        is_table, is_norm = "embeddings" in stem and array.ndim == 2, "norm" in stem.lower()
        if "decoder" in key or key == "vocab_projector.weight":
            continue
        weight = "embedding" if is_table else "scale" if is_norm else "kernel"
        path = "/".join((*stem.split("."), weight if leaf == "weight" else leaf))
        flax[path] = array.T if weight == "kernel" and leaf == "weight" else array
    expected = drawn(name, task, goldens)
    found = leaves_of(name, task, f"flax_{ORIGINS[name, task]}", flax)
    assert found.keys() == expected.keys()
    for leaf, value in expected.items():
        np.testing.assert_array_equal(found[leaf], value, err_msg=leaf)


@pytest.mark.parametrize("task", READS)
@pytest.mark.parametrize("name", CONFIGS)
def test_padding_moves_layers_and_logits_by_rounding_alone(
    name: str, task: str, goldens: dict[str, np.ndarray]
) -> None:
    leaves, length = drawn(name, task, goldens), draws.TEXT_LENGTHS[1]
    padded = run(name, task, leaves)
    alone = run(name, task, leaves, cut=(slice(1, 2), slice(length)))
    for layer in ("embedding", "block0", "block2"):
        tokens = np.asarray(padded.intermediates[layer])[1:2, :length]
        largest = np.abs(tokens).max()
        np.testing.assert_allclose(
            tokens, alone.intermediates[layer], rtol=0, atol=1e-6 * largest, err_msg=layer
        )
    logits = np.asarray(padded.logits)[1:2]
    logits = logits if task == "classes" else logits[:, :length]
    # For another length XLA adds in another order, exact zeros among the terms: rounding of the largest.
    np.testing.assert_allclose(logits, alone.logits, rtol=0, atol=1e-6 * np.abs(logits).max())


@pytest.mark.parametrize("pool", bert.POOLS)
def test_what_stands_in_the_padding_is_read_by_nothing(pool: str) -> None:
    model = bert.build(replace(TINY, pool=pool), 3)
    params, state = model.init(jax.random.key(0))
    params["head"]["kernel"] = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    texts = tiny.inputs_of(model, 4)
    others = {**texts, "ids": np.where(texts["mask"], texts["ids"], 31 - texts["ids"])}
    assert not np.array_equal(others["ids"], texts["ids"])
    found, expected = (model.apply(params, state, each).logits for each in (others, texts))
    np.testing.assert_array_equal(found, expected)


def test_a_text_of_padding_alone_gives_finite_numbers() -> None:
    model = bert.build(replace(TINY, pool="mean"), 3)
    texts = tiny.inputs_of(model, 2)
    outputs = model.apply(*model.init(jax.random.key(0)), {**texts, "mask": np.zeros_like(texts["mask"])})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))


def test_means_leave_padding_out_in_read_out_and_layers_alike() -> None:
    model = bert.build(replace(TINY, features=("block0",)), 3)
    texts = tiny.inputs_of(model, 3)
    outputs = model.apply(*model.init(jax.random.key(0)), texts)
    tokens = np.asarray(outputs.intermediates["block0"])
    expected = [rows[mask].mean(0) for rows, mask in zip(tokens, texts["mask"], strict=True)]
    np.testing.assert_allclose(outputs.features, np.stack(expected), rtol=1e-5, atol=1e-6)
    pooled = model.pool(outputs.intermediates["block0"], texts, "cls_mean")
    np.testing.assert_allclose(pooled, np.concatenate([tokens[:, 0], np.stack(expected)], 1), rtol=1e-5)


def test_more_tokens_than_positions_are_refused() -> None:
    model = bert.build(replace(TINY, position_offset=2), 3)
    texts = {name: np.zeros((1, 17), np.int32) for name in ("ids", "segments", "mask")}
    with pytest.raises(UserError, match=r"17 tokens long and the model has 16 pos.*preprocess.max_tokens=16"):
        model.apply(*model.init(jax.random.key(0)), texts)


def test_prompts_begin_no_text_and_take_part_in_every_block() -> None:
    plain, prompted = (bert.build(replace(TINY, num_prompts=count), 3) for count in (0, 2))
    params, state = prompted.init(jax.random.key(0))
    assert params["encoder"]["prompts"].shape == (2, 2, 16)
    texts = tiny.inputs_of(plain, 3)
    expected = plain.apply({**params, "encoder": {"layer": params["encoder"]["layer"]}}, state, texts)
    found = prompted.apply(params, state, texts)
    np.testing.assert_array_equal(found.intermediates["embedding"], expected.intermediates["embedding"])
    assert found.intermediates["block0"].shape == expected.intermediates["block0"].shape
    assert not np.array_equal(found.intermediates["block0"], expected.intermediates["block0"])


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "drop_path"])
def test_dropout_acts_in_training_alone_and_by_the_key(rate: str) -> None:
    still, model = bert.build(TINY, 0), bert.build(replace(TINY, **{rate: 0.5}), 0)
    params, state = model.init(jax.random.key(0))
    texts = tiny.inputs_of(model, 3)
    np.testing.assert_array_equal(
        model.apply(params, state, texts).features, still.apply(params, state, texts).features
    )
    first, same, other = (
        model.apply(params, state, texts, train=True, key=jax.random.key(seed)).features for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_head_that_reads_the_vocabulary_goes_without_a_pooler() -> None:
    params, _ = bert.build(TINY, 3, reads=VOCABULARY).shapes()
    assert params.keys() == {"embeddings", "encoder", "head"}
    assert {name: leaf.shape for name, leaf in tree.flatten(params["head"]).items()} == {
        "decoder/bias": (32,),
        "transform/dense/kernel": (16, 16),
        "transform/dense/bias": (16,),
        "transform/LayerNorm/scale": (16,),
        "transform/LayerNorm/bias": (16,),
    }


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("lora", {"attention/self/query", "attention/self/value"}),
        ("ia3", {"attention/self/key", "attention/self/value", "output/dense"}),
    ],
)
def test_strategies_find_their_layers_in_every_block(strategy: str, expected: set[str]) -> None:
    _, params, _ = tiny.make_parts("bert", strategy)
    kernels = {name.rpartition("/")[0] for name in tree.flatten(params["extra"][strategy])}
    layers = {f"encoder/layer/{index}/{name}/kernel" for index in range(2) for name in expected}
    assert kernels == layers <= bert.build(TINY, 3).linear().keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 18, "heads": 4}, r"model.dim is 18; expected a multiple of model.heads, 4"),
        (
            {"position_offset": 18},
            r"model.position_offset is 18; expected fewer than model.num_positions, 18",
        ),
        ({"pool": "max"}, "model.pool is 'max'; expected one of"),
        ({"pooler": "gelu"}, "model.pooler is 'gelu'; expected one of"),
        ({"attention_dropout": 1.0}, "model.attention_dropout is 1.0"),
        ({"vocabulary": -1}, "model.vocabulary is -1; expected 0 or more"),
        ({"layer_norm_epsilon": 2.0}, "model.layer_norm_epsilon is 2.0; expected 0 <= value < 1"),
        ({"adapter": "conv", "features": ("block0",)}, "model.adapter is 'conv' on a layer of shape"),
    ],
)
def test_settings_that_go_not_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bert.build(replace(TINY, **fields), 3).shapes()


# transformers 5.24's own count of `…Model` (with a pooler, but for DistilBERT).
@pytest.mark.parametrize(
    ("size", "pool", "num_parameters"),
    [
        ("bert_base", "pooler", 109_482_240),
        ("bert_large", "pooler", 335_141_888),
        ("bert_base_chinese", "pooler", 102_267_648),
        ("roberta_base", "pooler", 124_645_632),
        ("xlmr_base", "pooler", 278_043_648),
        ("distilbert_base", "cls", 66_362_880),
        ("minilm_l6", "pooler", 22_713_216),
        ("e5_small", "pooler", 117_653_760),
    ],
)
def test_sizes_have_the_public_number_of_parameters(size: str, pool: str, num_parameters: int) -> None:
    model = bert.build(bert.Config(size=size, pool=pool), 0)
    assert tree.num_values(model.shapes()[0]) == num_parameters
