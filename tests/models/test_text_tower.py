"""What is particular to text towers: what a token may see, which token is taken, and refused settings."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import text_tower
from jtl.models.text_tower import TEXT_MODELS, Config
from jtl.rng import key

TINY = text_tower.tiny()
SIGLIP = replace(TINY, size="siglip_b")
IDS = np.array([[5, 9, 63, 1, 1, 1, 1, 1], [7, 2, 30, 4, 63, 63, 63, 63]], np.int32)


def embedded(config: Config, ids: np.ndarray) -> np.ndarray:
    model = text_tower.build(config)
    return np.asarray(jax.jit(model.apply)(model.init(key(0, "init")), ids).embeddings)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_tiny_tower_is_built_as_it_says(name: str) -> None:
    family = TEXT_MODELS[name]
    config = family.tiny()
    model = family.build(config)
    params = model.init(key(0, "init"))
    assert {leaf: each.shape for leaf, each in tree.flatten(params).items()} == {
        leaf: each.shape for leaf, each in tree.flatten(model.shapes()).items()
    }
    full = family.resolve(config)
    outputs = model.apply(params, IDS)
    assert outputs.embeddings.shape == (2, full.projection_dim)
    np.testing.assert_allclose(np.linalg.norm(outputs.embeddings, axis=-1), 1, rtol=1e-6)
    names = ("embedding", *(f"block{index}" for index in range(full.depth)), "encoder_norm")
    assert tuple(outputs.intermediates) == names
    assert model.similarity({"logit_scale": np.array([2.0])}) == (pytest.approx(np.exp(2.0)), 0.0)
    assert model.similarity({"logit_scale": np.zeros(1), "logit_bias": np.array([-3.0])}) == (1.0, -3.0)


def test_what_follows_the_end_of_text_counts_in_siglip_alone() -> None:
    others = IDS.copy()
    others[0, 4:], others[1, 5:] = 20, 21
    np.testing.assert_array_equal(embedded(TINY, IDS), embedded(TINY, others))
    assert np.abs(embedded(SIGLIP, IDS) - embedded(SIGLIP, others)).max(axis=-1).min() > 1e-3


def test_the_end_of_text_is_the_largest_id_or_the_first_of_its_own() -> None:
    largest = embedded(TINY, IDS)
    np.testing.assert_array_equal(embedded(replace(TINY, pool="first_eos", eos_id=63), IDS), largest)
    first_one = embedded(replace(TINY, pool="first_eos", eos_id=1), IDS[:1])
    cut = IDS[:1].copy()
    cut[0, 4:] = 2
    np.testing.assert_array_equal(embedded(replace(TINY, pool="first_eos", eos_id=1), cut), first_one)
    assert np.abs(first_one - largest[:1]).max() > 1e-3


def test_fields_of_the_size_yield_to_those_given() -> None:
    full = text_tower.resolve(replace(SIGLIP, is_causal=True, gelu="exact"))
    assert (full.is_causal, full.gelu, full.pool, full.loss) == (True, "exact", "last", "sigmoid")
    assert text_tower.resolve(replace(TINY, is_causal=False)).is_causal is False
    assert text_tower.resolve(TINY).is_causal is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "clip_c"}, "text.size is 'clip_c'; expected one of .*; nearest: 'clip_l'"),
        ({"pool": "cls"}, "text.pool is 'cls'; expected one of"),
        ({"loss": "hinge"}, "text.loss is 'hinge'; expected one of"),
        ({"gelu": "fast"}, "text.gelu is 'fast'; expected one of"),
        ({"depth": -1}, "text.depth is -1; expected 0 <= value"),
        ({"heads": 3}, "text.dim is 16; expected a multiple of text.heads, 3"),
        (
            {"pool": "first_eos"},
            "text.eos_id is 0 and text.pool 'first_eos'; expected an id of the vocabulary",
        ),
        ({"pool": "first_eos", "eos_id": 64}, "text.eos_id is 64"),
    ],
)
def test_settings_out_of_range_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        text_tower.build(replace(TINY, **changes))


def test_texts_of_another_length_are_refused() -> None:
    model = text_tower.build(TINY)
    with pytest.raises(UserError, match="texts are 5 tokens long; the text tower expects 8"):
        model.apply(model.shapes(), IDS[:, :5])
