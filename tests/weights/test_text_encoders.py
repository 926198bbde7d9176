"""Text encoders' files: read as their classes wrote them, named for what they are, and written back."""

import json
import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jtl import tree
from jtl.errors import UserError
from jtl.models import bert, contract
from jtl.models.contract import FEATURES, VOCABULARY
from jtl.weights import FAMILIES, Config, Loaded, convert
from jtl.weights.load import load
from jtl.weights.names.bert import of_config
from jtl.weights.open import open_path
from jtl.weights.recognise import recognise
from jtl.weights.report import LEFT_OUT, LOADED, NEW
from tests.goldens import draws
from tests.models.test_bert import GOLDENS, ORIGINS, READS
from tests.weights import writing

BERT = FAMILIES["bert"].origins["huggingface_bert"]


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return {name: file[name] for name in file.files}


def tensors_of(name: str, task: str, goldens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a golden's tensors as its class saves them: what is tied once."""
    shapes = json.loads(str(goldens[f"{name}/{task}/shapes"]))
    return {
        key: draws.tensor(f"{name}/{task}", key, tuple(shape))
        for key, shape in shapes.items()
        if "decoder" not in key and key != "vocab_projector.weight"
    }


def save_folder(folder: Path, tensors: Mapping[str, np.ndarray], config: Any) -> str:
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(folder)


def opened(spec: str, *, head: str = "load", num_outputs: int | None = None, **changes: Any) -> Any:
    """Return the model a spec is recognised as, and its weights."""
    found = recognise(spec)
    config = bert.Config(**{**found.config_fields, **changes})
    outputs = found.num_outputs if num_outputs is None else num_outputs
    reads = found.reads if head == "load" else FEATURES
    model = contract.build(bert.FAMILY, config, outputs, reads=reads)
    params, model_state = model.init(jax.random.key(0))
    loaded = load(
        spec,
        family="bert",
        config=config,
        model_params=params,
        model_state=model_state,
        settings=Config(head=head),
    )
    return model, loaded


def rows_of(loaded: Loaded, status: str) -> dict[str, str]:
    return {row.source or row.targets[0]: row.note for row in loaded.report.of(status)}


@pytest.mark.parametrize(("name", "task"), ORIGINS)
def test_a_folder_from_the_hub_is_built_from_its_files_alone_and_tells_what_its_class_tells(
    name: str, task: str, goldens: dict[str, np.ndarray], tmp_path: Path
) -> None:
    spec = save_folder(tmp_path / name, tensors_of(name, task, goldens), str(goldens[f"{name}/config"]))
    found = recognise(spec)
    assert (found.family, found.reads, found.origin) == (
        "bert",
        READS[task],
        f"huggingface_{ORIGINS[name, task]}",
    )
    assert found.num_outputs == (draws.NUM_CLASSES if task == "classes" else 0)
    model, loaded = opened(spec)
    assert {row.status for row in loaded.report.rows} == {LOADED}
    texts = draws.texts(name)
    logits = np.asarray(jax.jit(model.apply)(loaded.params, {}, texts).logits)
    logits = logits if task == "classes" else logits[texts["mask"]]
    np.testing.assert_allclose(logits, goldens[f"{name}/{task}/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_a_head_that_tells_words_is_left_out_for_a_new_one_of_classes(
    name: str, goldens: dict[str, np.ndarray], tmp_path: Path
) -> None:
    spec = save_folder(tmp_path / name, tensors_of(name, "words", goldens), str(goldens[f"{name}/config"]))
    _, loaded = opened(spec, head="new", num_outputs=3)
    left_out = rows_of(loaded, LEFT_OUT)
    assert len(left_out) == 5
    assert set(left_out.values()) == {"the source's head"}
    assert set(rows_of(loaded, NEW)) == {"params/head/kernel", "params/head/bias"}


@pytest.mark.parametrize(("name", "task"), ORIGINS)
def test_every_tensor_is_written_back_bit_for_bit_under_its_own_name(
    name: str, task: str, goldens: dict[str, np.ndarray], tmp_path: Path
) -> None:
    tensors = tensors_of(name, task, goldens)
    spec = save_folder(tmp_path / name, tensors, str(goldens[f"{name}/config"]))
    through = tmp_path / "jtl.safetensors"
    convert.convert(spec, "safetensors-jtl", through)
    direct = tmp_path / "hf.safetensors"
    done = convert.convert(spec, "safetensors-hf", direct)
    assert not done.left_out
    written = load_file(direct)
    assert written.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(written[key], value, err_msg=key)
    own = load_file(through)
    assert recognise(str(through)).reads == READS[task]
    assert own["params/encoder/layer/0/attention/self/query/kernel"].shape == (32, 4, 8)


def test_what_pre_training_needs_alone_is_left_out_with_a_reason(tmp_path: Path) -> None:
    leaves = writing.leaves_of("bert", replace(bert.tiny(), pool="pooler"), num_outputs=0)
    arrays = {f"bert.{name}": array for name, array in writing.named(BERT, leaves).items()}
    arrays |= {
        "bert.embeddings.position_ids": np.arange(18),
        "cls.predictions.decoder.weight": np.ones((32, 16), np.float32),
        "cls.predictions.decoder.bias": np.ones(32, np.float32),
        "cls.seq_relationship.weight": np.ones((2, 16), np.float32),
        "cls.seq_relationship.bias": np.ones(2, np.float32),
    }
    spec = writing.save_safetensors(tmp_path / "x.safetensors", arrays)
    _, loaded = opened(spec, head="new", num_outputs=3)
    left_out = rows_of(loaded, LEFT_OUT)
    assert left_out["bert.embeddings.position_ids"] == "counter, not learned"
    assert left_out["cls.seq_relationship.weight"] == "head that tells whether a sentence follows another"
    assert left_out["cls.predictions.decoder.weight"] == "the table of words, once more"
    assert len(left_out) == 5


def test_norms_of_the_first_files_are_called_gamma_and_beta(tmp_path: Path) -> None:
    leaves = writing.leaves_of("bert", num_outputs=0)
    arrays = writing.named(BERT, leaves)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in arrays.items()
    }
    assert old.keys() != arrays.keys()
    _, loaded = opened(writing.save_safetensors(tmp_path / "x.safetensors", old), heads=2)
    found = tree.flatten({"params": loaded.params})
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_a_bare_roberta_is_told_by_its_one_kind_of_segment(tmp_path: Path) -> None:
    origin = FAMILIES["bert"].origins["huggingface_roberta"]
    config = replace(bert.tiny(), num_segments=1, position_offset=2)
    arrays = writing.named(origin, writing.leaves_of("bert", config, num_outputs=0))
    found = recognise(writing.save_safetensors(tmp_path / "x.safetensors", arrays))
    assert (found.origin, found.config_fields["position_offset"]) == ("huggingface_roberta", 2)


def test_a_pooler_that_no_feature_needs_is_left_out_and_one_that_is_missing_is_new(tmp_path: Path) -> None:
    arrays = writing.named(BERT, writing.leaves_of("bert", num_outputs=0))
    spec = writing.save_safetensors(tmp_path / "x.safetensors", arrays)
    _, loaded = opened(spec, pool="mean", heads=2)
    assert rows_of(loaded, LEFT_OUT) == dict.fromkeys(
        ("pooler.dense.weight", "pooler.dense.bias"), "pooler, which the model's features do without"
    )
    without = {name: array for name, array in arrays.items() if not name.startswith("pooler")}
    spec = writing.save_safetensors(tmp_path / "y.safetensors", without)
    assert recognise(spec).config_fields["pool"] == "cls"
    _, loaded = opened(spec, pool="pooler", heads=2)
    assert set(rows_of(loaded, NEW)) == {"params/pooler/dense/kernel", "params/pooler/dense/bias"}


def test_a_pooler_of_jtls_own_file_is_left_out_too_where_no_feature_needs_it(tmp_path: Path) -> None:
    leaves = writing.leaves_of("bert")
    _, loaded = opened(writing.save_safetensors(tmp_path / "x.safetensors", leaves), head="new", pool="cls")
    left_out = rows_of(loaded, LEFT_OUT)
    assert left_out["params/pooler/dense/kernel"] == "pooler, which the model's features do without"
    assert not any("pooler" in name for name in (*tree.flatten(loaded.params), *rows_of(loaded, LOADED)))


def test_a_classifier_without_a_pooler_has_no_place_in_transformers(tmp_path: Path) -> None:
    leaves = writing.leaves_of("bert", replace(bert.tiny(), pool="mean"))
    with pytest.raises(UserError, match=r"dense layer before the last, which is model.pool='pooler'"):
        convert.named("bert", ("huggingface",), leaves)


def test_jtls_own_names_without_params_are_no_flax_classs(tmp_path: Path) -> None:
    """Without a head they are those of Flax's class, but for the shape of attention's kernels."""
    leaves = writing.leaves_of("bert", num_outputs=0)
    bare = {name.removeprefix("params/"): leaf for name, leaf in leaves.items()}
    spec = writing.save_safetensors(tmp_path / "x.safetensors", bare)
    found = recognise(spec)
    assert (found.origin, found.config_fields["heads"]) == ("jtl", 2)
    read, _ = convert.read_leaves(open_path(Path(spec)), found, spec)
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(read[name], leaf, err_msg=name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"position_embedding_type": "relative_key"},
            r"position_embedding_type 'relative_key'; jtl has BERTs",
        ),
        ({"is_decoder": True}, r"is_decoder True; jtl has BERTs with False only"),
        ({"hidden_act": "swish"}, r"hidden activation 'swish'; expected one of"),
        ({"num_attention_heads": 0}, r"num_attention_heads 0; expected a positive whole number"),
        ({"layer_norm_eps": "small"}, r"layer_norm_eps 'small'; expected a small positive number"),
        ({"model_type": "roberta", "pad_token_id": -1}, r"pad_token_id -1; expected a whole number"),
    ],
)
def test_a_config_of_what_jtl_has_not_got_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        of_config({"model_type": "bert", **values})


def test_a_config_of_another_family_says_nothing() -> None:
    assert of_config({"model_type": "vit"}) is None
    assert of_config({"architecture": "resnet50"}) is None


def test_a_config_of_another_depth_is_refused(goldens: dict[str, np.ndarray], tmp_path: Path) -> None:
    config = {**json.loads(str(goldens["bert/config"])), "num_hidden_layers": 5}
    spec = save_folder(tmp_path / "x", tensors_of("bert", "classes", goldens), config)
    with pytest.raises(UserError, match=r"says depth=5, and the tensors beside it are of depth=3"):
        recognise(spec)


def test_minilm_gives_sentence_embeddings_as_transformers_does(
    real_path: Any, goldens: dict[str, np.ndarray]
) -> None:
    spec = str(real_path("weights/minilm_l6_v2"))
    found = recognise(spec)
    assert found.config_fields["size"] == "minilm_l6"
    model, loaded = opened(spec)
    texts = draws.texts("real/minilm_l6", vocabulary=model.preprocess.vocabulary)
    features = np.asarray(jax.jit(model.apply)(loaded.params, {}, texts).features)
    expected = goldens["real/minilm_l6/means"]
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((features * expected).sum(1) / lengths).min() >= 0.99999
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_e5_of_its_own_vocabulary_loads_whole(real_path: Any, tmp_path: Path) -> None:
    unpack = runpy.run_path(str(real_path("weights/e5_small_zh_en") / "unpack.py"))
    unpack["main"](str(tmp_path / "e5"))
    config = bert.resolve(bert.Config(**recognise(str(tmp_path / "e5")).config_fields))
    assert (config.vocabulary, config.dim, config.depth, config.heads) == (38014, 384, 12, 12)
    _, loaded = opened(str(tmp_path / "e5"), pool="mean")
    assert {row.status for row in loaded.report.rows} <= {LOADED, LEFT_OUT}
    assert set(rows_of(loaded, LEFT_OUT).values()) <= {"pooler, which the model's features do without"}


def test_a_vocabulary_head_is_built_and_loaded_as_one(goldens: dict[str, np.ndarray], tmp_path: Path) -> None:
    spec = save_folder(tmp_path / "x", tensors_of("bert", "words", goldens), str(goldens["bert/config"]))
    found = recognise(spec)
    assert (found.reads, found.num_outputs) == (VOCABULARY, 0)
    assert "with vocabulary outputs" in found.title


def test_a_size_with_a_vocabulary_of_its_own_keeps_the_sizes_heads_and_read_out() -> None:
    params, _ = bert.build(bert.Config(size="minilm_l12", vocabulary=99), 0).shapes()
    shapes = {name: leaf.shape for name, leaf in tree.flatten({"params": params}).items()}
    # As PyTorch stores them: the heads of a kernel are one dim.
    shapes = {
        name: (shape[0], 1, shape[1] * shape[2]) if name.endswith("query/kernel") else shape
        for name, shape in shapes.items()
    }
    found = FAMILIES["bert"].recognise(shapes)
    assert found is not None
    config = bert.resolve(bert.Config(**found[0]))
    assert (config.heads, config.pool, config.vocabulary) == (12, "mean", 99)
