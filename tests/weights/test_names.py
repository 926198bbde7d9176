"""Laws of the tables of names: no tensor has two places, nothing is lost in a change of layout."""

from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models import MODELS
from jtl.weights import FAMILIES, Config
from jtl.weights.contract import LeftOut, Origin, Row
from jtl.weights.load import differing_settings, load
from jtl.weights.names import assign, ops, pattern
from tests.weights import writing

TABLES = [(family, key) for family in FAMILIES for key in FAMILIES[family].origins]
SHAPES = {
    "SAME": ((3, 5), ((3, 5),)),
    "DENSE": ((6, 8), ((8, 6),)),
    "CONV": ((2, 3, 4, 5), ((4, 5, 3, 2),)),
    "HEADS_KERNEL": ((6, 6), ((6, 2, 3),)),
    "HEADS_BIAS": ((6,), ((2, 3),)),
    "OUT_KERNEL": ((6, 6), ((2, 3, 6),)),
    "QKV_KERNEL": ((18, 6), ((6, 2, 3),) * 3),
    "QKV_BIAS": ((18,), ((2, 3),) * 3),
    "KV_KERNEL": ((12, 6), ((6, 2, 3),) * 2),
    "KV_BIAS": ((12,), ((2, 3),) * 2),
    "HALVES_KERNEL": ((10, 6), ((6, 5),) * 2),
    "HALVES_BIAS": ((10,), ((5,),) * 2),
}


def test_every_model_family_has_names() -> None:
    assert FAMILIES.keys() == MODELS.keys()


@pytest.mark.parametrize("name", SHAPES)
def test_operation_and_inverse_are_identity(name: str) -> None:
    source_shape, shapes = SHAPES[name]
    source = np.arange(np.prod(source_shape)).reshape(source_shape)
    parts = getattr(ops, name).forward(source, shapes)
    assert tuple(part.shape for part in parts) == shapes
    np.testing.assert_array_equal(getattr(ops, name).inverse(parts), source)


def test_every_operation_is_under_test() -> None:
    assert {name for name, value in vars(ops).items() if isinstance(value, ops.Op)} == set(SHAPES)


def test_fused_attention_kernel_splits_as_pytorch_multiplies() -> None:
    random = np.random.default_rng(0)
    weight, x = random.standard_normal((18, 6)), random.standard_normal(6)
    query, key, value = (weight @ x).reshape(3, 2, 3)
    for kernel, expected in zip(
        ops.QKV_KERNEL.forward(weight, ((6, 2, 3),) * 3), (query, key, value), strict=True
    ):
        np.testing.assert_allclose(np.einsum("d,dhk->hk", x, kernel), expected, rtol=1e-12)


def test_output_kernel_multiplies_as_pytorch_does() -> None:
    random = np.random.default_rng(0)
    weight, x = random.standard_normal((6, 6)), random.standard_normal((2, 3))
    (kernel,) = ops.OUT_KERNEL.forward(weight, ((2, 3, 6),))
    np.testing.assert_allclose(np.einsum("hk,hkd->d", x, kernel), weight @ x.reshape(-1), rtol=1e-12)


@pytest.mark.parametrize(("family", "key"), TABLES)
def test_table_fills_every_leaf_from_exactly_one_tensor(family: str, key: str) -> None:
    leaves = writing.leaves_of(family, **writing.model_of(family, key))
    origin = FAMILIES[family].origins[key]
    arrays = writing.named(origin, leaves)
    found = assign.assign(origin, arrays)
    assert not found.unknown
    assert not found.left_out
    targets = [target for each in found.filled.values() for target in each.targets]
    assert sorted(targets) == sorted(leaves)


@pytest.mark.parametrize(("family", "key"), TABLES)
def test_origin_is_found_from_its_names(family: str, key: str) -> None:
    origins = FAMILIES[family].origins
    leaves = writing.leaves_of(family, **writing.model_of(family, key))
    best = assign.best_origin(origins, writing.named(origins[key], leaves))
    assert best is not None
    assert best[0] == key


def test_names_of_another_family_have_no_origin() -> None:
    arrays = writing.named(FAMILIES["resnet"].origins["huggingface"], writing.leaves_of("resnet"))
    assert assign.best_origin(FAMILIES["vit"].origins, arrays) is None


def test_name_that_fits_two_rows_is_a_bug() -> None:
    row = Row("a.{i}", ("params/a",), ops.SAME)
    with pytest.raises(AssertionError, match="several rows"):
        assign.assign(Origin("a table", (row,), (LeftOut("a.{j}", "twice"),)), ["a.1"])


@pytest.mark.parametrize("name", ["blocks.01.norm1.weight", "blocks..norm1.weight", "xblocks.1.norm1.weight"])
def test_pattern_matches_whole_names_and_plain_numbers_only(name: str) -> None:
    assert pattern.match("blocks.{i}.norm1.weight", name) is None


@pytest.mark.parametrize("text", ["layer{s}.{u}.conv{c+1}", "plain.name", "{a-2}/x"])
def test_match_inverts_render(text: str) -> None:
    numbers = {letter: 3 + index for index, letter in enumerate("suca") if "{" + letter in text}
    assert pattern.match(text, pattern.render(text, numbers)) == numbers


@pytest.mark.parametrize("family", MODELS)
def test_a_run_of_any_size_is_of_the_settings_it_was_made_with(family: str) -> None:
    for size in MODELS[family].sizes:
        config = MODELS[family].Config(size=size)
        made_with = vars(MODELS[family].resolve(MODELS[family].Config(**asdict(config))))
        assert differing_settings(family, config, made_with) == {}, size


def test_a_file_of_other_places_says_to_set_the_image_size(tmp_path: Path) -> None:
    config = replace(MODELS["vit"].tiny(), image_px=(12, 20))
    arrays = writing.named(FAMILIES["vit"].origins["timm"], writing.leaves_of("vit", config))
    spec = writing.save_safetensors(tmp_path / "vit.safetensors", arrays)
    tiny = MODELS["vit"].tiny()
    params, model_state = MODELS["vit"].build(tiny, 3).init(jax.random.key(0))
    with pytest.raises(UserError, match=r"places that form no square: set model.image_px"):
        load(
            spec,
            family="vit",
            config=tiny,
            model_params=params,
            model_state=model_state,
            settings=Config(),
        )


def test_weights_are_the_same_whatever_code_computes_attention() -> None:
    assert differing_settings("vit", MODELS["vit"].Config(attention="xla"), {"attention": "auto"}) == {}
