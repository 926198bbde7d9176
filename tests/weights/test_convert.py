"""The way back: what jtl writes under another library's names is, bit for bit, what it read."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess
from jtl.models import MODELS
from jtl.weights import FAMILIES, convert
from jtl.weights.contract import Op, Origin, Row
from jtl.weights.names import ops
from jtl.weights.open import open_path
from jtl.weights.recognise import recognise
from jtl.weights.run_folder import META_NAME, write_run_weights
from tests.weights import writing

ORIGINS = [(family, key) for family in FAMILIES for key in FAMILIES[family].origins]


def _saved(path: Path, family: str, key: str) -> dict[str, np.ndarray]:
    """Save a model of the family under the origin's names and return the tensors."""
    leaves = writing.leaves_of(family)
    arrays = writing.named(FAMILIES[family].origins[key], leaves)
    save_file(arrays, path)
    return arrays


def _tensors(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in open_path(path).tensors.items()}


def _assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_every_target_writes_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    original = _saved(tmp_path / "vit.safetensors", "vit", "timm")
    for to in convert.TARGETS:
        out = tmp_path / to
        convert.convert(str(tmp_path / "vit.safetensors"), to, out)
        back = tmp_path / f"{to} back"
        convert.convert(str(out), "safetensors-timm", back)
        _assert_equal(_tensors(back), original)


def test_dtypes_stay_as_they_are(tmp_path: Path) -> None:
    arrays = _saved(tmp_path / "float32", "vit", "timm")
    halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    halves["head.bias"] = arrays["head.bias"].astype(np.float16)
    save_file(halves, tmp_path / "halves.safetensors")
    convert.convert(str(tmp_path / "halves.safetensors"), "safetensors-hf", tmp_path / "hf.safetensors")
    convert.convert(str(tmp_path / "hf.safetensors"), "safetensors-timm", tmp_path / "back.safetensors")
    _assert_equal(_tensors(tmp_path / "back.safetensors"), halves)


def test_the_backbone_of_a_classifier_has_its_librarys_prefix_and_a_bare_one_none() -> None:
    origin = FAMILIES["vit"].origins["huggingface"]
    with_head, _ = convert.to_origin(origin, writing.leaves_of("vit"))
    assert {"vit.layernorm.weight", "classifier.weight"} <= with_head.keys()
    bare, _ = convert.to_origin(origin, writing.leaves_of("vit", num_outputs=0))
    assert "layernorm.weight" in bare
    assert not any(name.startswith("vit.") for name in bare)


def test_batch_counters_are_written_where_strict_loading_asks_for_them(tmp_path: Path) -> None:
    arrays, missing = convert.to_origin(
        FAMILIES["resnet"].origins["torchvision"], writing.leaves_of("resnet")
    )
    assert not missing
    assert arrays["layer1.0.bn1.num_batches_tracked"].dtype == np.int64
    assert arrays["bn1.num_batches_tracked"].shape == ()


def test_source_tensors_without_a_leaf_are_named(tmp_path: Path) -> None:
    arrays = _saved(tmp_path / "plain", "vit", "huggingface")
    arrays["vit.pooler.dense.weight"] = np.ones((16, 16), np.float32)
    save_file(arrays, tmp_path / "hf.safetensors")
    done = convert.convert(str(tmp_path / "hf.safetensors"), "safetensors-timm", tmp_path / "timm")
    assert list(done.left_out) == ["vit.pooler.dense.weight"]
    assert done.num_tensors == len(_tensors(tmp_path / "timm"))


def test_a_leaf_the_target_has_no_name_for_is_named() -> None:
    leaves = writing.leaves_of("vit")
    leaves["params/Transformer/encoderblock_0/gamma"] = np.ones(3, np.float32)
    with pytest.raises(UserError, match=r"no place for 1 .*encoderblock_0/gamma; choose another --to"):
        convert.named("vit", ("timm",), leaves)


def test_a_family_without_the_librarys_names_is_refused() -> None:
    with pytest.raises(UserError, match=r"family 'cifar_resnet' has no names of google; found: pytorch_"):
        convert.named("cifar_resnet", ("google",), {})


def test_nothing_is_overwritten_and_unknown_targets_say_the_nearest(tmp_path: Path) -> None:
    _saved(tmp_path / "here.safetensors", "vit", "timm")
    spec = str(tmp_path / "here.safetensors")
    with pytest.raises(UserError, match="is there already"):
        convert.convert(spec, "npz", tmp_path / "here.safetensors")
    with pytest.raises(UserError, match="nearest: 'safetensors-hf'"):
        convert.convert(spec, "safetensors-hg", tmp_path / "new")


@pytest.mark.parametrize(("family", "key"), ORIGINS)
def test_recognised_file_comes_back_under_every_origin(family: str, key: str, tmp_path: Path) -> None:
    """A model built from the file alone takes every tensor and gives it back."""
    path = tmp_path / "original.safetensors"
    leaves = writing.leaves_of(family, **writing.model_of(family, key))
    arrays, missing = convert.to_origin(FAMILIES[family].origins[key], leaves)
    assert not missing
    save_file(arrays, path)
    found = recognise(str(path))
    assert found.family == family
    read, _ = convert.read_leaves(open_path(path), found, str(path))
    again, _ = convert.to_origin(FAMILIES[family].origins[key], read)
    _assert_equal(again, arrays)


def test_two_rows_for_one_leaf_are_written_once() -> None:
    double = Op(lambda array, shapes: (array,), lambda arrays: arrays[0])
    rows = (Row("a", ("params/a",), ops.SAME), Row("b", ("params/a",), double))
    arrays, missing = convert.to_origin(Origin("a table", rows), {"params/a": np.ones(2, np.float32)})
    assert list(arrays) == ["a"]
    assert not missing


def test_what_the_new_file_cannot_tell_is_said(tmp_path: Path) -> None:
    """Class names, pre-processing, and what shapes do not tell: the number of heads, and a grid."""
    config = replace(MODELS["vit"].tiny(), image_px=(12, 20))
    params, model_state = writing.trees_of(writing.leaves_of("vit", config))
    run = tmp_path / "run"
    run.mkdir()
    write_run_weights(run, params, model_state)
    meta = {
        "family": "vit",
        "model": asdict(config),
        "label_names": ["a", "b", "c"],
        "preprocess": asdict(Preprocess((12, 20), 12)),
    }
    (run / META_NAME).write_text(json.dumps(meta))
    done = convert.convert(str(run), "safetensors-timm", tmp_path / "timm.safetensors")
    lost = "; ".join(done.lost)
    assert "model.heads=2 (it will be taken for 1)" in lost
    assert "model.image_px=(12, 20)" in lost
    assert "the names of 3 classes" in lost
    assert "the pre-processing: short side to 12 px" in lost
    assert "not in the new file: the names of 3 classes" in convert.text(done)
    assert convert.convert(str(tmp_path / "timm.safetensors"), "npz", tmp_path / "b.npz").lost == ()


def test_output_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder .*nowhere' is not there; make it first"):
        convert.convert("embedded://vit_mini", "npz", tmp_path / "nowhere" / "x.npz")
