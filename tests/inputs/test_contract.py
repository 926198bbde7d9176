"""The contract of `jtl.inputs` for every kind of input."""

import dataclasses
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data.subset import SPLITTERS
from jtl.inputs import INPUTS, contract, tokens
from jtl.inputs.preprocess import Preprocess
from jtl.models import MODELS
from jtl.models.contract import batch_of

WORDS = Path(__file__).parents[1] / "goldens" / "tokens" / "words" / "tokenizer.json"
# Of every kind a pre-processing and two raw examples.
EXAMPLES: dict[str, tuple[Any, tuple[Any, Any]]] = {
    "image": (Preprocess(image_px=(12, 8), resize_px=14), (np.zeros((20, 16, 3), np.uint8),) * 2),
    "tokens": (tokens.of_file(WORDS, max_tokens=16), ("the film is good", ("good", "bad"))),
}


def batch(kind: str, augment: Any = None) -> Any:
    """Return the batch of the kind's examples, as long as the spec where they differ in length."""
    source, (preprocess, raws) = INPUTS[kind], EXAMPLES[kind]
    read = source.transform(preprocess, augment)
    examples = [read(raw, augment and np.random.default_rng(0)) for raw in raws]
    return source.collate(examples, (tokens.SPEC_TOKENS,), preprocess)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("section", ["Preprocess", "Augment", "Changes"])
def test_settings_are_frozen_dataclasses_with_defaults(kind: str, section: str) -> None:
    made = getattr(INPUTS[kind], section)()
    assert dataclasses.is_dataclass(made)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(made)[0].name, None)
    assert hash(made) == hash(dataclasses.replace(made))


@pytest.mark.parametrize("kind", INPUTS)
def test_transform_travels_to_other_processes(kind: str) -> None:
    source, (preprocess, raws) = INPUTS[kind], EXAMPLES[kind]
    for augment in (None, source.Augment()):
        read = source.transform(preprocess, augment)
        sent = pickle.loads(pickle.dumps(read))
        here, there = (each(raws[0], augment and np.random.default_rng(0)) for each in (read, sent))
        jax.tree.map(np.testing.assert_array_equal, here, there)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("is_training", [False, True])
def test_spec_is_what_transform_and_collate_give(kind: str, is_training: bool) -> None:
    source, (preprocess, _) = INPUTS[kind], EXAMPLES[kind]
    found = batch(kind, source.Augment() if is_training else None)
    expected = batch_of(source.spec(preprocess), 2)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for leaf, spec in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (leaf.shape, leaf.dtype) == (spec.shape, spec.dtype)


@pytest.mark.parametrize("kind", INPUTS)
def test_pre_processing_is_described_in_one_line(kind: str) -> None:
    for preprocess in (EXAMPLES[kind][0], INPUTS[kind].Preprocess()):
        line = INPUTS[kind].described(preprocess)
        assert line
        assert line.splitlines() == [line.strip()]


@pytest.mark.parametrize("kind", INPUTS)
def test_what_a_kind_reads_can_be_held_out_and_read_by_a_family(kind: str) -> None:
    assert INPUTS[kind].holds in SPLITTERS
    assert kind in {family.input for family in MODELS.values()}


def test_whatever_can_be_held_out_is_read_by_a_kind() -> None:
    assert SPLITTERS.keys() == {source.holds for source in INPUTS.values()}


@pytest.mark.parametrize("kind", INPUTS)
def test_raw_examples_pass_the_check_and_those_of_no_kind_do_not(kind: str) -> None:
    for raw in EXAMPLES[kind][1]:
        INPUTS[kind].check(raw)
    with pytest.raises(contract.Unreadable):
        INPUTS[kind].check(b"\xff\xfe")


@pytest.mark.parametrize("kind", INPUTS)
def test_models_of_one_pre_processing_read_the_same(kind: str) -> None:
    source, preprocess = INPUTS[kind], EXAMPLES[kind][0]
    read = source.normalise(jax.tree.map(jnp.asarray, batch(kind)), preprocess)
    converted = source.converter(preprocess, preprocess)(read)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), converted, read)


@pytest.mark.parametrize("kind", INPUTS)
def test_joined_batches_lie_one_behind_the_other(kind: str) -> None:
    inputs = batch(kind)
    joined = INPUTS[kind].join([inputs, inputs])
    for whole, part in zip(jax.tree.leaves(joined), jax.tree.leaves(inputs), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate([part, part]))


@pytest.mark.parametrize("kind", INPUTS)
def test_files_that_travel_are_found_where_they_were_put(kind: str, tmp_path: Path) -> None:
    source, (preprocess, _) = INPUTS[kind], EXAMPLES[kind]
    moved = source.placed(preprocess, tmp_path)
    names = source.files(preprocess)
    assert all(path.is_file() for path in names.values())
    assert source.files(moved) == {name: tmp_path / name for name in names}
    assert source.described(moved) == source.described(preprocess)


@pytest.mark.parametrize("kind", INPUTS)
def test_settled_again_nothing_changes(kind: str) -> None:
    source, (preprocess, _) = INPUTS[kind], EXAMPLES[kind]
    assert source.settled(preprocess, preprocess, source.Changes()) == preprocess
