"""Models cut in two: the rest behind the cut gives what the whole model gives, in every family."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from jtl import rng, tree
from jtl.models import MODELS, Model, cut
from jtl.models.contract import batch_of
from tests import tiny

STATS: frozenset[str] = frozenset()


def _model(family: str, **fields: Any) -> tuple[Model, Any, Any]:
    model = MODELS[family].build(replace(MODELS[family].tiny(), **fields), 3)
    params, model_state = model.init(rng.key(0, "init"))
    head = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape), params["head"])
    return model, {**params, "head": jax.tree.map(np.float32, head)}, model_state


def _trace(found: cut.Cut, model: Model, params: Any, model_state: Any, *, train: bool) -> cut.Trace:
    inputs = batch_of(model.spec, cut.NUM_TRACED)
    return cut.trace(found, params, model_state, inputs, train=train, frozen_stats=STATS)


@pytest.mark.parametrize("layer", [-1, pytest.param(-2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", MODELS)
def test_the_rest_behind_a_cut_gives_the_whole_models_features_and_logits(family: str, layer: int) -> None:
    model, params, model_state = _model(family)
    inputs = tiny.inputs_of(model, 2)
    found = cut.before(model, model.layers[layer], params, model_state)
    assert found is not None

    def both(params: Any, inputs: Any) -> Any:
        kept = found.below(params, model_state, inputs)
        behind = found.rest.apply(params, model_state, kept, train=False, key=None)
        whole = model.apply(params, model_state, inputs, train=False, key=None)
        return kept, (behind.features, behind.logits), (whole.features, whole.logits)

    kept, behind, whole = jax.jit(both)(params, inputs)
    assert kept.keys() == found.kept.keys()
    assert found.calm == _trace(found, model, params, model_state, train=False)
    for one, other in zip(behind, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", MODELS)
def test_what_stands_below_a_cut_is_not_run_behind_it(family: str) -> None:
    model, params, model_state = _model(family)
    found = cut.before(model, model.layers[-1], params, model_state)
    assert found is not None
    run = partial(found.rest.apply, train=False, key=None)
    program = jax.make_jaxpr(run)(params, model_state, batch_of(found.kept, 2)).jaxpr
    read = {id(var) for step in program.eqns for var in step.invars}
    names = jax.tree.leaves(tree.map_named(lambda name, leaf: name, params))
    used = {name for name, var in zip(names, program.invars, strict=False) if id(var) in read}
    assert used
    assert {name.partition("/")[0] for name in used} < {name.partition("/")[0] for name in names}


def test_what_is_kept_depends_on_what_stands_below_alone() -> None:
    model, params, model_state = _model("resnet")
    found = cut.before(model, model.layers[-2], params, model_state)
    assert found is not None
    traced = _trace(found, model, params, model_state, train=False)
    assert found.name == "block2/unit1"
    assert {name.partition("/")[0] for name in traced.names} == {"conv_root", "bn_root", "block1"}
    assert all("block2" not in name for name in traced.state_names)
    assert "batch_stats/block1/unit1/bn1/mean" in traced.state_names


def test_a_cut_is_before_the_first_module_of_a_group_that_runs_with_recomputation_too() -> None:
    for remat in ("none", "full"):
        model, params, model_state = _model("convnext", remat=remat)
        found = cut.before(model, model.layers[-2], params, model_state)
        assert found is not None
        assert found.name == "block2/norm_down"


def test_dropout_below_the_cut_is_seen_in_training_alone() -> None:
    model, params, model_state = _model("vit", dropout=0.1)
    found = cut.before(model, model.layers[-1], params, model_state)
    assert found is not None
    assert _trace(found, model, params, model_state, train=True).is_random
    assert not _trace(found, model, params, model_state, train=False).is_random


def test_without_chance_training_and_evaluation_are_one_program_and_other_models_another() -> None:
    texts = []
    for fields in ({}, {"has_layer_scale": True}):
        model, params, model_state = _model("vit", **fields)
        found = cut.before(model, model.layers[-1], params, model_state)
        assert found is not None
        calm, trained = (_trace(found, model, params, model_state, train=train) for train in (False, True))
        assert calm == trained
        texts.append(calm.text)
    assert texts[0] != texts[1]


def test_running_statistics_that_move_are_another_program() -> None:
    model, params, model_state = _model("resnet")
    found = cut.before(model, model.layers[-1], params, model_state)
    assert found is not None
    texts = [_trace(found, model, params, model_state, train=train).text for train in (False, True)]
    assert texts[0] != texts[1]


def test_a_layer_that_is_read_from_below_the_cut_leaves_the_head_alone_to_cut_before() -> None:
    model, params, model_state = _model("vit", features=("block0", "block1"))
    assert cut.before(model, model.layers[-2], params, model_state) is None
    assert cut.before(model, model.layers[-1], params, model_state) is not None


def test_prompts_enter_below_the_block_they_are_listed_with() -> None:
    model, params, model_state = _model("vit", num_prompts=2)
    found = cut.before(model, model.layers[-2], params, model_state)
    assert found is not None
    assert "Transformer/prompts" in _trace(found, model, params, model_state, train=False).names


def test_maps_that_an_adapter_reads_are_kept_beside_the_features() -> None:
    model, params, model_state = _model("vit", features=("block0",), adapter="conv", adapter_width=4)
    found = cut.before(model, model.layers[-1], params, model_state)
    assert found is not None
    assert [leaf.shape for leaf in found.kept.values()] == [(16,), (5, 16)]
