"""Every format gives the tensors its own library wrote, by name, and reads them one by one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import h5py
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jtl.errors import UserError
from jtl.models import MODELS
from jtl.weights import FAMILIES, Config
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.formats import sharded, variables
from jtl.weights.formats.files import open_file
from jtl.weights.hub import resolve as hub
from jtl.weights.load import load
from jtl.weights.open import digest, open_path
from jtl.weights.recognise import recognise
from tests.weights import writing

GOLDENS = Path(__file__).parents[1] / "goldens" / "weights"
FLOAT8 = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
TREE = {
    "params": {
        "block.0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.float16(0.5)},
        "head": {"bias": np.array([1, -2], ml_dtypes.bfloat16)},
    },
    "step": 3,
    "opt_state": [{"mu": np.ones(2, np.float32)}, None, {}],
}


def assert_holds(file: TensorFile, expected: dict[str, Any]) -> None:
    """The file has these tensors, and says their shapes and dtypes before it reads them."""
    assert set(file.tensors) == set(expected)
    for name, array in expected.items():
        found, tensor = file.tensors[name].read(), file.tensors[name]
        assert (found.shape, found.dtype) == (np.shape(array), array.dtype), name
        assert (tensor.shape, tensor.dtype) == (found.shape, found.dtype.name), name
        np.testing.assert_array_equal(found, array, err_msg=name)


PARAMS = {
    "block.0/kernel": TREE["params"]["block.0"]["kernel"],
    "block.0/scale": TREE["params"]["block.0"]["scale"],
    "head/bias": TREE["params"]["head"]["bias"],
}


def save_msgpack(path: Path, tree: Any) -> Path:
    path.write_bytes(flax.serialization.to_bytes(tree))
    return path


def save_orbax(path: Path, tree: Any, **settings: Any) -> Path:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**settings)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree))
    return path


def test_msgpack_of_a_training_state_gives_its_parameters(tmp_path: Path) -> None:
    file = open_file(save_msgpack(tmp_path / "x.msgpack", TREE))
    assert file.format == "Flax msgpack, entry 'params'"
    assert_holds(file, PARAMS)


@pytest.mark.parametrize("size", [1, 4, 24, 1000])
def test_msgpack_array_in_chunks_is_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", size * 4)
    kernel = np.arange(35, dtype=np.float32).reshape(5, 7)
    file = open_file(save_msgpack(tmp_path / "x", {"kernel": kernel, "bias": np.ones(3)}))
    assert_holds(file, {"kernel": kernel, "bias": np.ones(3)})


def test_msgpack_of_every_kind_of_value_is_walked_over(tmp_path: Path) -> None:
    values = {
        **{f"number{index}": value for index, value in enumerate((0, -1, 127, 128, -33, 1 << 20, 1 << 40))},
        **{"real": 0.5, "none": None, "yes": True, "text": "x" * 300, "bytes": b"x" * 70_000, "complex": 1j},
        "many": {str(index): index for index in range(20)},
        "kernel": np.ones((2, 2), np.int8),
    }
    assert_holds(open_file(save_msgpack(tmp_path / "x", values)), {"kernel": values["kernel"]})


@pytest.mark.parametrize("settings", [{}, {"use_ocdbt": False}, {"use_zarr3": True}], ids=str)
def test_orbax_checkpoint_of_any_layout_gives_its_parameters(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    file = open_path(save_orbax(tmp_path / "x", TREE, **settings))
    assert file.format == "Orbax, entry 'params'"
    # Orbax saves numpy's scalars as arrays without dimensions.
    assert_holds(file, {**PARAMS, "block.0/scale": np.asarray(PARAMS["block.0/scale"], np.float16)})


def test_orbax_manager_gives_the_last_step_of_its_items(tmp_path: Path) -> None:
    with ocp.CheckpointManager(tmp_path / "x") as manager:
        for step in (9, 10):
            manager.save(step, args=ocp.args.StandardSave({"params": {"kernel": jnp.full(2, float(step))}}))
    assert_holds(open_path(tmp_path / "x"), {"kernel": np.full(2, 10, np.float32)})
    assert_holds(open_path(tmp_path / "x" / "9"), {"kernel": np.full(2, 9, np.float32)})
    assert digest(tmp_path / "x") == digest(tmp_path / "x" / "10") != digest(tmp_path / "x" / "9")


@pytest.mark.parametrize("save", [save_msgpack, save_orbax])
def test_tree_of_the_models_own_names_is_loaded(tmp_path: Path, save: Callable[..., Path]) -> None:
    for family in ("vit", "resnet", "bert"):
        leaves = writing.leaves_of(family)
        params, model_state = writing.trees_of(leaves)
        tree = {"params": params, **({"batch_stats": model_state["batch_stats"]} if model_state else {})}
        spec = str(save(tmp_path / family, tree))
        assert recognise(spec).family == family
        fresh = writing.trees_of(writing.leaves_of(family, seed=1))
        loaded = load(
            spec,
            family=family,
            config=MODELS[family].tiny(),
            model_params=fresh[0],
            model_state=fresh[1],
            settings=Config(head="load"),
        )
        np.testing.assert_array_equal(loaded.params["head"]["kernel"], params["head"]["kernel"])


TREES = {
    "bare": (["a/kernel", "b"], "", {"a/kernel": "a/kernel", "b": "b"}),
    "parameters alone": (["params/a"], "", {"a": "params/a"}),
    "training state": (["state/params/a", "step"], ", entry 'state/params'", {"a": "state/params/a"}),
    "averages first": (["params/a", "ema_params/a"], ", entry 'ema_params'", {"a": "ema_params/a"}),
    "variables whole": (
        ["params/params/a", "params/batch_stats/a/mean"],
        ", entry 'params/params'",
        {"params/a": "params/params/a", "model_state/batch_stats/a/mean": "params/batch_stats/a/mean"},
    ),
    "statistics": (
        ["params/a", "batch_stats/a/mean", "opt_state/0/mu/a"],
        ", entry 'params'",
        {"params/a": "params/a", "model_state/batch_stats/a/mean": "batch_stats/a/mean"},
    ),
    "own names": (
        ["params/a", "model_state/batch_stats/a/mean"],
        "",
        {"params/a": "params/a", "model_state/batch_stats/a/mean": "model_state/batch_stats/a/mean"},
    ),
    "own training state": (
        ["step", "trainable/head/kernel", "trainable/extra/x", "frozen/a", "opt_state/0", "model_state/b"],
        ", trainable",
        {
            "params/head/kernel": "trainable/head/kernel",
            "params/a": "frozen/a",
            "model_state/b": "model_state/b",
        },
    ),
    "own training state with averages": (
        ["step", "trainable/a", "ema/a", "opt_state/0", "frozen/b"],
        ", ema",
        {"params/a": "ema/a", "params/b": "frozen/b"},
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_model_is_found_in_trees_of_variables(name: str) -> None:
    names, container, expected = TREES[name]
    assert variables.of_model(names, "file") == (container, expected)


def test_two_variables_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="holds several variables named params/a"):
        variables.of_model(["step", "opt_state/0", "trainable/a", "frozen/a"], "file")


@pytest.fixture(scope="module")
def keras() -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "keras.npz") as archive:
        return {name: archive[name] for name in archive if name != "versions"}


@pytest.mark.parametrize(
    ("name", "title"), [("keras_model.h5", "Keras legacy HDF5"), ("keras_3.weights.h5", "Keras weights")]
)
def test_keras_files_give_variables_by_layer_without_the_optimizers(
    keras: dict[str, np.ndarray], name: str, title: str
) -> None:
    file = open_file(GOLDENS / name)
    assert file.format == title
    assert_holds(file, keras)


def save_hdf5(path: Path, datasets: dict[str, Any], **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name, array in datasets.items():
            file[name] = array
    return path


def test_keras_2_weights_lose_the_numbers_of_their_graph(tmp_path: Path) -> None:
    kernel, bias = np.ones((3, 3, 2, 1), np.float32), np.ones(2, np.float32)
    datasets = {
        "dw/dw/depthwise_kernel:0": kernel,
        "model/conv/bias:0": bias,
        "sep/sep/depthwise_kernel:0": kernel,
        "sep/sep/pointwise_kernel:0": kernel,
    }
    file = open_file(save_hdf5(tmp_path / "x.h5", datasets, layer_names=["dw", "model", "sep"]))
    expected = ("dw/kernel", "conv/bias", "sep/depthwise_kernel", "sep/pointwise_kernel")
    assert tuple(sorted(file.tensors)) == tuple(sorted(expected))


def test_keras_layers_of_one_name_keep_their_paths(tmp_path: Path) -> None:
    datasets = {
        "forward/cell/kernel": np.ones(2),
        "backward/cell/kernel": np.zeros(2),
        "top/bias": np.ones(1),
    }
    file = open_file(save_hdf5(tmp_path / "x.h5", datasets, layer_names=["forward", "backward", "top"]))
    assert set(file.tensors) == {"forward/cell/kernel", "backward/cell/kernel", "top/bias"}


def test_keras_3_numbers_become_names_where_they_are_certain(tmp_path: Path) -> None:
    vector, kernel = np.ones(2, np.float32), np.ones((2, 2), np.float32)
    path = save_hdf5(
        tmp_path / "x.h5",
        {
            "layers/dense/vars/0": kernel,
            "layers/dense/vars/1": vector,
            **{f"layers/batch_normalization/vars/{index}": vector for index in range(3)},
            # Earlier releases kept the states of random layers.
            "layers/dropout/seed_generator/vars/0": np.ones(2, np.uint32),
        },
    )
    with h5py.File(path, "r+") as file:
        file["layers/dense/vars"].attrs["name"] = "top"
    expected = {"top/kernel", "top/bias", *(f"batch_normalization/{index}" for index in range(3))}
    assert set(open_file(path).tensors) == expected


def test_keras_needs_h5py_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"needs h5py: pip install 'jtl\[keras\]'"):
        open_file(GOLDENS / "keras_model.h5")


@pytest.mark.parametrize("name", FLOAT8)
def test_8_bit_floats_of_safetensors_are_read(tmp_path: Path, name: str) -> None:
    array = np.array([[1.0, -0.5], [0.0, 2.0]]).astype(FLOAT8[name])
    assert_holds(open_file(writing.save_raw(tmp_path / "x", {"a": array})), {"a": array})


@pytest.mark.parametrize("dtype", [*FLOAT8.values(), ml_dtypes.bfloat16, np.float16, np.float64])
def test_model_in_any_floating_point_is_loaded_as_float32(tmp_path: Path, dtype: Any) -> None:
    leaves = writing.leaves_of("vit")
    arrays = {
        name: array.astype(dtype)
        for name, array in writing.named(FAMILIES["vit"].origins["timm"], leaves).items()
    }
    params, model_state = writing.trees_of(writing.leaves_of("vit", seed=1))
    spec = str(writing.save_raw(tmp_path / "x", arrays))
    loaded = load(
        spec,
        family="vit",
        config=MODELS["vit"].tiny(),
        model_params=params,
        model_state=model_state,
        settings=Config(head="load"),
    )
    assert {row.dtype for row in loaded.report.rows} == {np.dtype(dtype).name}
    expected = leaves["params/head/kernel"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(loaded.params["head"]["kernel"], expected)


def shard(folder: Path, weight_map: dict[str, str], index: str = "model.safetensors.index.json") -> Path:
    """Write tensors [k] into the shards that the map says, and the map as index."""
    for each in sorted(set(weight_map.values())):
        names = [name for name, file in weight_map.items() if file == each]
        writing.save_safetensors(folder / each, {name: np.full(2, ord(name), np.float32) for name in names})
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / index


def test_shards_are_one_file_by_index_and_by_folder(tmp_path: Path) -> None:
    index = shard(tmp_path, {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"})
    for path in (index, tmp_path):
        file = open_path(path)
        assert file.format == "safetensors in 2 shards"
        assert_holds(file, {name: np.full(2, ord(name), np.float32) for name in "abc"})
    assert hub.resolve(str(index), Config()).sha256 == hub.resolve(str(tmp_path), Config()).sha256


class Hashed(str):
    """A name that counts how often one of them is hashed."""

    count = 0

    def __hash__(self) -> int:
        Hashed.count += 1
        return super().__hash__()


def test_shards_of_many_tensors_take_time_in_proportion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [Hashed(index) for index in range(100)]
    tensors = {name: Tensor((), "float32", lambda: np.ones(())) for name in names}
    monkeypatch.setattr(sharded, "weight_map", lambda path: dict.fromkeys(names, "1.safetensors"))
    Hashed.count = 0
    found = sharded.open_index(tmp_path / "i", lambda path: TensorFile(path, "safetensors", tensors))
    assert found.tensors.keys() == tensors.keys()
    assert Hashed.count < 20 * len(names)


def test_wrapper_of_names_is_taken_off_shards_together(tmp_path: Path) -> None:
    for name in ("1", "2"):
        writing.save_safetensors(tmp_path / name, {f"module.{name}": np.ones(1)})
    weight_map = {"module.1": "1", "module.2": "2"}
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert set(open_file(tmp_path / "x.index.json").tensors) == {"1", "2"}


def test_pytorch_shards_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "1.bin").write_bytes((GOLDENS / "tensors_zip.pt").read_bytes())
    names = list(open_file(GOLDENS / "tensors_zip.pt").tensors)
    weight_map = dict.fromkeys(names, "1.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert set(open_path(tmp_path).tensors) == set(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "2.safetensors").unlink(),
            "needs 2 shards, and '2.safetensors' is not beside",
        ),
        (
            lambda folder: shard(folder, {"z": "2.safetensors"}, "other"),
            "says that shard .* holds b, which it",
        ),
        (
            lambda folder: shard(folder, {"b": "2.safetensors", "z": "2.safetensors"}, "other"),
            "holds z, which",
        ),
        (lambda folder: (folder / "2.safetensors").write_bytes(b"x"), "is no sound safetensors file"),
    ],
)
def test_shards_that_do_not_fit_their_index_are_one_line(
    tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    index = shard(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    change(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        recognise(str(index))
    assert "\n" not in str(caught.value)


def test_folder_prefers_the_safer_format(tmp_path: Path) -> None:
    save_msgpack(tmp_path / "flax_model.msgpack", {"params": {"a": np.ones(1)}})
    assert open_path(tmp_path).format == "Flax msgpack"
    (tmp_path / "pytorch_model.bin").write_bytes((GOLDENS / "tensors_zip.pt").read_bytes())
    assert open_path(tmp_path).format.startswith("PyTorch")
    writing.save_safetensors(tmp_path / "model.safetensors", {"a": np.ones(1)})
    assert open_path(tmp_path).format == "safetensors"


def test_folder_without_weights_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has no model.safetensors: it is no run folder; expected one of .*Orbax"
    ):
        open_path(tmp_path)
