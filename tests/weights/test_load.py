"""Loading accounts for everything, restores what was written, and refuses what does not fit."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.weights import FAMILIES, Config, Loaded, head
from jtl.weights.head import PREFIX
from jtl.weights.load import load
from jtl.weights.recognise import recognise
from jtl.weights.report import LEFT_OUT, LOADED, NEW, RESAMPLED
from tests.weights import writing

TABLES = [(family, key) for family in FAMILIES for key in FAMILIES[family].origins]
KEEP_HEAD = Config(head="load")
HEAD = ("params/head/kernel", "params/head/bias")
TIMM = FAMILIES["vit"].origins["timm"]


def load_into(
    spec: str,
    family: str = "vit",
    settings: Config = KEEP_HEAD,
    config: Any = None,
    num_outputs: int = 3,
    **names: Any,
) -> Loaded:
    """Load a spec into a fresh tiny model."""
    config = config or MODELS[family].tiny()
    fresh = writing.leaves_of(family, config, num_outputs, seed=1)
    params, model_state = writing.trees_of(fresh)
    return load(
        spec,
        family=family,
        config=config,
        model_params=params,
        model_state=model_state,
        settings=settings,
        **names,
    )


def leaves_of(loaded: Loaded) -> dict[str, np.ndarray]:
    return tree.flatten({"params": loaded.params, "model_state": loaded.model_state})


def assert_equal_leaves(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


@pytest.mark.parametrize(("family", "key"), TABLES)
@pytest.mark.parametrize("save", [writing.save_safetensors, writing.save_npz], ids=["safetensors", "npz"])
def test_what_was_written_under_any_names_comes_back_bit_by_bit(
    tmp_path: Path, family: str, key: str, save: Any
) -> None:
    model = writing.model_of(family, key)
    leaves = writing.leaves_of(family, **model)
    spec = save(tmp_path / "weights.npz", writing.named(FAMILIES[family].origins[key], leaves))
    loaded = load_into(spec, family, **model)
    assert_equal_leaves(leaves_of(loaded), leaves)
    assert recognise(spec).family == family


@pytest.mark.parametrize(("family", "key"), TABLES)
def test_report_has_every_tensor_and_every_leaf_once(tmp_path: Path, family: str, key: str) -> None:
    model = writing.model_of(family, key)
    arrays = writing.named(FAMILIES[family].origins[key], writing.leaves_of(family, **model))
    spec = writing.save_safetensors(tmp_path / "x", arrays)
    loaded = load_into(spec, family, Config(), **{**model, "num_outputs": 5})
    rows = loaded.report.rows
    assert Counter(row.source for row in rows if row.source) == Counter(list(arrays))
    targets = Counter(target for row in rows for target in row.targets)
    assert targets == Counter(list(leaves_of(loaded)))
    left_out = {LEFT_OUT} if model["num_outputs"] else set()
    assert {row.status for row in rows} == {LOADED, NEW, *left_out}
    head = {name for name in leaves_of(loaded) if name.startswith(PREFIX)}
    assert {target for row in loaded.report.of(NEW) for target in row.targets} == head


def test_new_head_keeps_the_fresh_leaves_bits(tmp_path: Path) -> None:
    spec = writing.save_safetensors(tmp_path / "x", writing.named(TIMM, writing.leaves_of("vit")))
    found = leaves_of(load_into(spec, settings=Config(), num_outputs=7))
    fresh = writing.leaves_of("vit", num_outputs=7, seed=1)
    for name in HEAD:
        np.testing.assert_array_equal(found[name], fresh[name])


def test_model_without_head_leaves_the_sources_out(tmp_path: Path) -> None:
    spec = writing.save_safetensors(tmp_path / "x", writing.named(TIMM, writing.leaves_of("vit")))
    loaded = load_into(spec, settings=Config(), num_outputs=0)
    assert not loaded.report.of(NEW)
    assert {row.source for row in loaded.report.of(LEFT_OUT)} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_prefix_is_taken_off_when_all_have_it(tmp_path: Path, prefix: str) -> None:
    leaves = writing.leaves_of("vit")
    arrays = {prefix + name: array for name, array in writing.named(TIMM, leaves).items()}
    assert_equal_leaves(leaves_of(load_into(writing.save_safetensors(tmp_path / "x", arrays))), leaves)
    arrays["pos_embed"] = arrays.pop(f"{prefix}pos_embed")
    with pytest.raises(UserError, match=r"1 leaves of the model are not filled: .*pos_embedding"):
        load_into(writing.save_safetensors(tmp_path / "y", arrays))


@pytest.mark.parametrize("prefix", ["params/", "opt/target/"])
def test_flax_training_state_is_read_under_its_prefix(tmp_path: Path, prefix: str) -> None:
    leaves = writing.leaves_of("vit")
    arrays = {
        prefix + name: array
        for name, array in writing.named(FAMILIES["vit"].origins["google"], leaves).items()
    }
    assert_equal_leaves(leaves_of(load_into(writing.save_npz(tmp_path / "x.npz", arrays))), leaves)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("save", [writing.save_safetensors, writing.save_npz], ids=["safetensors", "npz"])
def test_other_floats_become_float32_and_the_report_says_so(tmp_path: Path, dtype: Any, save: Any) -> None:
    leaves = writing.leaves_of("vit")
    arrays = {name: array.astype(dtype) for name, array in writing.named(TIMM, leaves).items()}
    loaded = load_into(save(tmp_path / "x.npz", arrays))
    expected = {name: leaf.astype(dtype).astype(np.float32) for name, leaf in leaves.items()}
    assert_equal_leaves(leaves_of(loaded), expected)
    assert f"({np.dtype(dtype).name} -> float32)" in loaded.report.text()


def test_other_grid_is_resampled_with_the_librarys_own_mode(tmp_path: Path) -> None:
    leaves = writing.leaves_of("vit")
    config = replace(MODELS["vit"].tiny(), image_px=(12, 20))
    found = {}
    for key in ("timm", "google"):
        arrays = writing.named(FAMILIES["vit"].origins[key], leaves)
        loaded = load_into(writing.save_safetensors(tmp_path / key, arrays), config=config)
        (row,) = loaded.report.of(RESAMPLED)
        found[key] = row.note
        assert leaves_of(loaded)[row.targets[0]].shape == (1, 1 + 3 * 5, 16)
    assert found == {"timm": "2x2 -> 3x5 bicubic", "google": "2x2 -> 3x5 bilinear"}


def test_equal_number_of_positions_on_another_grid_is_resampled(tmp_path: Path) -> None:
    spec = writing.save_safetensors(tmp_path / "x", writing.named(TIMM, writing.leaves_of("vit")))
    loaded = load_into(spec, config=replace(MODELS["vit"].tiny(), image_px=(4, 16)))
    assert [row.note for row in loaded.report.of(RESAMPLED)] == ["2x2 -> 1x4 bicubic"]


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_setting_chooses_the_resampling(tmp_path: Path, mode: str) -> None:
    spec = writing.save_safetensors(tmp_path / "x", writing.named(TIMM, writing.leaves_of("vit")))
    settings = Config(head="load", position_embedding=mode)
    loaded = load_into(spec, settings=settings, config=replace(MODELS["vit"].tiny(), image_px=16))
    assert [row.note for row in loaded.report.of(RESAMPLED)] == [f"2x2 -> 4x4 {mode}"]


# A family without public weights has no names of others to come from.
CONVERTED = [name for name, names in FAMILIES.items() if names.input_kernel and names.origins]


@pytest.mark.parametrize("family", CONVERTED)
def test_other_channels_are_adapted_and_reported(tmp_path: Path, family: str) -> None:
    leaves = writing.leaves_of(family)
    origin = next(iter(FAMILIES[family].origins.values()))
    name = FAMILIES[family].input_kernel
    grey = leaves | {name: leaves[name].sum(2, keepdims=True)}
    spec = writing.save_safetensors(tmp_path / "x", writing.named(origin, grey))
    loaded = load_into(spec, family)
    (row,) = loaded.report.of(RESAMPLED)
    assert row.note == "1 -> 3 channels"
    np.testing.assert_allclose(leaves_of(loaded)[name].sum(2), leaves[name].sum(2), rtol=1e-5)
    with pytest.raises(UserError, match=r"set weights\.channels='auto'"):
        load_into(spec, family, Config(channels="strict"))


def test_head_map_copies_named_classes_and_keeps_the_others_fresh(tmp_path: Path) -> None:
    leaves = writing.leaves_of("vit", num_outputs=4)
    spec = writing.save_safetensors(tmp_path / "x", writing.named(TIMM, leaves))
    settings = Config(head="map", label_map={"wolf": 3, "2": "0"})
    loaded = load_into(spec, settings=settings, label_names=("cat", "wolf", "dog"))
    fresh = writing.leaves_of("vit", seed=1)
    for name in HEAD:
        found = leaves_of(loaded)[name]
        np.testing.assert_array_equal(found[..., 1], leaves[name][..., 3])
        np.testing.assert_array_equal(found[..., 2], leaves[name][..., 0])
        np.testing.assert_array_equal(found[..., 0], fresh[name][..., 0])
    assert "head.weight: 2 of 3 classes by label map; fresh: cat" in loaded.report.text()


@pytest.mark.parametrize(("suffix", "text"), [("json", '{"b": 1}'), ("csv", "b,1\n")])
def test_label_map_comes_from_a_file(tmp_path: Path, suffix: str, text: str) -> None:
    leaves = writing.leaves_of("vit")
    spec = writing.save_safetensors(tmp_path / "x", writing.named(TIMM, leaves))
    path = tmp_path / f"map.{suffix}"
    path.write_text(text)
    loaded = load_into(spec, settings=Config(head="map", label_map=str(path)), label_names=("a", "b", "c"))
    np.testing.assert_array_equal(loaded.params["head"]["bias"][1], leaves[HEAD[1]][1])


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"zebra": 0}, "has new class 'zebra'; expected a name or an index below 3; nearest: 'a', 'b', 'c'"),
        ({"a": 3}, "has source class 3; expected a name or an index below 3; the classes have no names here"),
        ({"a": -1}, "weights.label_map is {'a': -1}; expected 0 or more for each"),
        ("no.json", "is no file; expected one of .json, .csv"),
        ("map.txt", "is no file; expected one of .json, .csv"),
    ],
)
def test_label_map_errors_name_the_class(tmp_path: Path, label_map: Any, message: str) -> None:
    spec = writing.save_safetensors(tmp_path / "x", writing.named(TIMM, writing.leaves_of("vit")))
    with pytest.raises(UserError, match=message):
        load_into(spec, settings=Config(head="map", label_map=label_map), label_names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "cannot be read: maximum recursion depth"),
        ('{"a": true}', "is no map from new classes to source classes"),
        ('{"a": 1', "cannot be read: Expecting"),
    ],
)
def test_label_map_that_is_damaged_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(UserError, match=message):
        head.read_label_map(str(tmp_path / "map.json"), ("a",), 1, None, 3)


def changed(arrays: dict[str, np.ndarray], **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the arrays with some replaced, added, or (None) removed; '__' stands for '.' in names."""
    plain = {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in (arrays | plain).items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"norm__weight": None},
            ["1 leaves of the model are not filled: params/Transformer/encoder_norm/scale"],
        ),
        ({"extra": np.ones(2, np.float32)}, ["1 have no place in the model: extra", "of 33 tensors 32 fit"]),
        (
            {"norm__bias": np.ones(7, np.float32)},
            ["norm.bias (7,) for params/Transformer/encoder_norm/bias (16,)"],
        ),
        ({"pos_embed": np.ones((1, 4, 16), np.float32)}, ["pos_embed (1, 4, 16) for", "(1, 5, 16)"]),
        ({"cls_token": None}, ["params/cls", "pool='gap'"]),
        ({"reg_token": np.ones((1, 4, 16), np.float32)}, ["have no place in the model: reg_token"]),
        ({"head__weight": np.ones((9, 16), np.float32)}, ["for a fresh head set weights.head='new'"]),
        ({"blocks__2__norm1__weight": np.ones(16, np.float32)}, ["blocks.2.norm1.weight"]),
        (
            {"patch_embed__proj__weight": np.ones((16, 3, 2, 2), np.float32)},
            ["(16, 3, 2, 2) for params/embedding"],
        ),
        ({"norm__bias": np.ones(16, np.int64)}, ["norm.bias is int64; expected floating point"]),
        ({"norm__bias": np.full(16, np.nan, np.float32)}, ["'norm.bias'", "16 values that are not finite"]),
        ({"pre_logits__fc__bias": np.ones(16, np.float32)}, ["no place in the model: pre_logits.fc.bias"]),
    ],
)
def test_what_does_not_fit_is_one_error_that_names_it(
    tmp_path: Path, changes: dict[str, Any], messages: list[str]
) -> None:
    arrays = writing.named(TIMM, writing.leaves_of("vit"))
    spec = writing.save_safetensors(tmp_path / "x", changed(arrays, **changes))
    with pytest.raises(UserError) as caught:
        load_into(spec)
    for message in messages:
        assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layer_before_the_head_is_left_out_with_the_head(tmp_path: Path) -> None:
    arrays = writing.named(TIMM, writing.leaves_of("vit")) | {"pre_logits.fc.bias": np.ones(16, np.float32)}
    loaded = load_into(writing.save_safetensors(tmp_path / "x", arrays), settings=Config())
    assert "pre_logits.fc.bias" in {row.source for row in loaded.report.of(LEFT_OUT)}


def test_transposed_kernel_is_refused(tmp_path: Path) -> None:
    arrays = writing.named(TIMM, writing.leaves_of("vit"))
    arrays["blocks.0.mlp.fc1.weight"] = np.ascontiguousarray(arrays["blocks.0.mlp.fc1.weight"].T)
    with pytest.raises(
        UserError, match=r"blocks.0.mlp.fc1.weight \(16, 32\) for .*Dense_0/kernel \(16, 32\)"
    ):
        load_into(writing.save_safetensors(tmp_path / "x", arrays))


@pytest.mark.parametrize(("family", "other"), [("vit", "resnet"), ("resnet", "vit"), ("vit", "cifar_resnet")])
def test_weights_of_another_family_are_named(tmp_path: Path, family: str, other: str) -> None:
    origin = next(iter(FAMILIES[other].origins.values()))
    spec = writing.save_safetensors(tmp_path / "x", writing.named(origin, writing.leaves_of(other)))
    with pytest.raises(
        UserError, match=f"are not of model '{family}': they look like a .* model.name='{other}'"
    ):
        load_into(spec, family)


def test_leaves_that_weights_fill_are_never_drawn(tmp_path: Path) -> None:
    config = MODELS["vit"].tiny()
    spec = writing.save_safetensors(tmp_path / "x", writing.named(TIMM, writing.leaves_of("vit")))
    model = MODELS["vit"].build(config, 5)
    whole, asked = model.init(jax.random.key(3)), []

    def draw(names: Any) -> dict[str, Any]:
        asked.extend(names)
        params, model_state = model.init(jax.random.key(3), {name.partition("/")[2] for name in names})
        drawn = tree.flatten({"params": params, "model_state": model_state})
        return {name: drawn[name] for name in names}

    shapes = model.shapes()
    settings = {"family": "vit", "config": config, "settings": Config()}
    found = load(spec, model_params=shapes[0], model_state=shapes[1], draw=draw, **settings)
    expected = load(spec, model_params=whole[0], model_state=whole[1], **settings)
    assert set(asked) == set(HEAD)
    assert_equal_leaves(leaves_of(found), leaves_of(expected))
    assert found.report == expected.report
