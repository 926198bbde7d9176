"""Checkpoints as training scripts keep them: whatever is put in front of names goes, the rest is told."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jtl import cli, tree
from jtl.errors import UserError
from jtl.models import MODELS, vit
from jtl.weights import FAMILIES, Config, inspect, unwrap
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.load import load
from jtl.weights.open import open_path
from jtl.weights.origins import best_known
from tests.weights import writing

VIT_TI16 = "weights/vit_tiny_patch16_224_augreg/vit_tiny_patch16_224.safetensors"
SMALL = replace(MODELS["vit"].tiny(), depth=3)
Arrays = Mapping[str, np.ndarray]


@cache
def leaves() -> dict[str, np.ndarray]:
    return writing.leaves_of("vit", SMALL)


@cache
def plain(seed: int = 0, origin: str = "timm") -> dict[str, np.ndarray]:
    arrays = writing.leaves_of("vit", SMALL, seed=seed)
    return writing.named(FAMILIES["vit"].origins[origin], arrays)


def under(prefix: str, arrays: Arrays | None = None) -> dict[str, np.ndarray]:
    return {prefix + name: array for name, array in (arrays or plain()).items()}


def body(prefix: str = "", seed: int = 0) -> dict[str, np.ndarray]:
    return {prefix + name: array for name, array in plain(seed).items() if not name.startswith("head.")}


def one(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


def tensor_of(array: np.ndarray) -> Tensor:
    return Tensor(array.shape, array.dtype.name, lambda: array)


def counter() -> np.ndarray:
    return np.asarray(12, np.int64)


OTHER = {"blocks.0.attn.qkv.weight": one(1)}
ADAM = {"state": {0: {"exp_avg": one(0), "step": counter()}}, "param_groups": [{"lr": 0.1}]}
# How training scripts of many kinds keep a model; each holds what `plain()` has, under other names.
WRAPPED: dict[str, Any] = {
    "Lightning": {
        "state_dict": under("model."),
        "epoch": 3,
        "callbacks": {"ModelCheckpoint{'monitor': 'acc'}": {"best_model_score": one(0.5)}},
        "optimizer_states": [ADAM],
        "hyper_parameters": {"lr": 0.1},
    },
    "compiled Lightning": {"state_dict": {**under("model._orig_mod."), "loss_fn.weight": one(1)}},
    "a sequence of two": under("0.module."),
    "an average with a counter": {
        "model": under("", plain(seed=1)),
        "model_ema": {"n_averaged": counter(), **under("module.")},
    },
    "timm": {"state_dict": plain(seed=1), "state_dict_ema": plain(), "optimizer": ADAM},
    "DINO": {
        "student": under("module.backbone.", plain(seed=1)),
        "teacher": under("backbone.") | {"head.mlp.0.weight": one(1), "head.last_layer.weight_g": one(1)},
        "dino_loss": {"center": one(1)},
        "optimizer": ADAM,
    },
    "MoCo": {
        "state_dict": {
            **under("module.encoder_q."),
            **under("module.encoder_k.", plain(seed=1)),
            "module.queue": one(1),
            "module.queue_ptr": counter(),
        }
    },
    "MoCo v3": {
        "state_dict": {
            **under("module.base_encoder."),
            **under("module.momentum_encoder.", plain(seed=1)),
            "module.predictor.0.weight": one(1),
        }
    },
    "SimSiam": {"state_dict": under("module.encoder.") | {"module.predictor.0.weight": one(1)}},
    "MAE": {
        "model": {**plain(), "mask_token": one(1), "decoder_embed.bias": one(1)},
        "scaler": {"scale": one(1)},
    },
    "BYOL": under("online_network.") | under("target_network.", plain(seed=1)),
    "mmpretrain": {
        "meta": {"epoch": 3},
        "state_dict": under("backbone.") | {"neck.proj.weight": one(1), "ema_state_dict": one(1)},
        "message_hub": {"log_scalars": {"train/loss": one(1)}},
    },
    "accelerate": {"module": under("net.encoder."), "lr_scheduler": {"last": counter()}},
}


def save_flax(path: Path, root: Mapping[str, Any]) -> str:
    path.write_bytes(flax.serialization.to_bytes(root))
    return str(path)


def save_orbax(path: Path, root: Mapping[str, Any]) -> str:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(root))
    return str(path)


def loaded(spec: str, num_outputs: int = 3, **settings: Any) -> Any:
    fresh = writing.leaves_of("vit", SMALL, num_outputs, seed=9)
    params, model_state = writing.trees_of(fresh)
    weights = Config(**{"head": "load" if num_outputs else "new", **settings})
    return load(
        spec, family="vit", config=SMALL, model_params=params, model_state=model_state, settings=weights
    )


def assert_is_plain(found: Any) -> None:
    """The values are those of `plain()`, and every tensor is in the report once."""
    flat = tree.flatten({"params": found.params})
    assert flat.keys() == leaves().keys()
    for name, leaf in leaves().items():
        np.testing.assert_array_equal(flat[name], leaf, err_msg=name)
    sources = [row.source for row in found.report.rows]
    assert len(sources) == len(set(sources))
    assert all(row.note for row in found.report.of("left out"))


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_checkpoint_gives_the_plain_files_values(tmp_path: Path, name: str) -> None:
    assert_is_plain(loaded(writing.save_torch(tmp_path / "x.pth", WRAPPED[name])))


@pytest.mark.parametrize("save", [writing.save_safetensors, writing.save_npz], ids=["safetensors", "npz"])
@pytest.mark.parametrize("name", WRAPPED)
def test_flat_files_keep_wrappers_too(tmp_path: Path, name: str, save: Callable[..., str]) -> None:
    flat = dict(_flattened(WRAPPED[name]))
    assert_is_plain(loaded(save(tmp_path / "x.npz", flat)))


def _flattened(value: Any, prefix: str = "") -> Any:
    if isinstance(value, np.ndarray):
        yield prefix, value
    elif isinstance(value, Mapping | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _flattened(inner, f"{prefix}.{key}" if prefix else str(key))


def flax_tree(seed: int = 0) -> dict[str, Any]:
    flat = writing.leaves_of("vit", SMALL, seed=seed)
    return tree.unflatten({name.removeprefix("params/"): leaf for name, leaf in flat.items()})


@pytest.mark.parametrize("save", [save_flax, save_orbax], ids=["msgpack", "orbax"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda ours, other: {"net": {"inner": {"params": ours}}, "opt_state": {"0": {"mu": other}}},
        lambda ours, other: {"trainer": {"ema": ours, "model": other}, "step": counter()},
        lambda ours, other: {"agent": {"vision": ours, "mask_token": one(1)}, "rng": one(1)},
    ],
    ids=["nested", "an average", "beside other things"],
)
def test_trees_of_variables_keep_wrappers_too(tmp_path: Path, save: Any, wrap: Any) -> None:
    assert_is_plain(loaded(save(tmp_path / "x", wrap(flax_tree(), flax_tree(seed=1)))))


def test_statistics_beside_wrapped_flax_parameters_are_read(tmp_path: Path) -> None:
    config = MODELS["resnet"].tiny()
    flat = writing.leaves_of("resnet", config)
    named = tree.unflatten(flat)
    root = {"learner": {"params": named["params"], "batch_stats": named["model_state"]["batch_stats"]}}
    file = open_path(Path(save_flax(tmp_path / "x", root)))
    assert set(file.tensors) == set(flat)


def test_what_is_decided_is_said(tmp_path: Path) -> None:
    found = loaded(writing.save_torch(tmp_path / "x.pth", WRAPPED["an average with a counter"]))
    remarks = "\n".join(found.report.remarks())
    assert "the model is what the file has under 'model_ema.module.'" in remarks
    assert (
        "2 models, and that of 'model_ema.module' is taken; to take another: weights.entry='model'" in remarks
    )
    assert "(counter, not learned): model_ema.n_averaged" in remarks
    assert all(remark.removeprefix("weights: ") in found.report.text() for remark in found.report.remarks())
    found = loaded(writing.save_torch(tmp_path / "y.pth", WRAPPED["Lightning"]))
    assert "(optimizer state): optimizer_states.0.state.0.exp_avg" in found.report.text()
    assert "(state of training, not of the model): callbacks.ModelCheckpoint" in found.report.text()


def test_a_plain_file_is_opened_as_it_is(tmp_path: Path) -> None:
    file = open_path(Path(writing.save_safetensors(tmp_path / "x", plain())))
    assert (file.notes, file.others, file.raw_names) == ((), {}, {})


def test_prefix_of_the_body_alone_leaves_another_head_aside(tmp_path: Path) -> None:
    arrays = body("backbone.") | {"head.fc.weight": np.ones((5, 16), np.float32), "head.fc.bias": one(0)}
    spec = writing.save_torch(tmp_path / "x.pth", {"state_dict": arrays})
    found = loaded(spec, num_outputs=0)
    assert {row.source for row in found.report.of("left out")} == {
        "state_dict.head.fc.weight",
        "state_dict.head.fc.bias",
    }
    # A head that is asked for is not made up.
    with pytest.raises(UserError, match="leaves of the model are not filled"):
        loaded(spec)


def test_head_that_stands_beside_the_prefix_is_the_models(tmp_path: Path) -> None:
    arrays = body("backbone.") | {"head.weight": plain()["head.weight"], "head.bias": plain()["head.bias"]}
    assert_is_plain(loaded(writing.save_torch(tmp_path / "x.pth", {"state_dict": arrays})))


def test_copies_that_fit_alike_are_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    both = under("left.") | under("right.", plain(seed=1))
    spec = writing.save_safetensors(tmp_path / "x.safetensors", both)
    with pytest.raises(UserError, match=r"2 models.* weights\.entry to one of 'left' .*, 'right' ") as caught:
        open_path(Path(spec))
    assert "x.safetensors" in str(caught.value)
    assert_is_plain(loaded(spec, entry="left"))


@pytest.mark.parametrize("entry", ["model", "model.", "a.model"])
def test_entry_of_the_settings_is_taken(tmp_path: Path, entry: str) -> None:
    inner = {"model": plain(), "model_ema": plain(seed=1)}
    root = {"a": inner} if entry.startswith("a.") else inner
    found = loaded(writing.save_torch(tmp_path / "x.pth", root), entry=entry)
    assert_is_plain(found)
    assert "outside of weights.entry" in found.report.text()


@pytest.mark.parametrize("prefix", ["net.", "state_dict.net."])
def test_prefix_of_the_settings_is_taken_off(tmp_path: Path, prefix: str) -> None:
    arrays = {"state_dict": under("net.") | under("other.", plain(seed=1))}
    assert_is_plain(loaded(writing.save_torch(tmp_path / "x.pth", arrays), prefix=prefix))


@pytest.mark.parametrize("patterns", ["extra.*,surprise", ("extra.*", "model.surprise")])
def test_what_the_settings_leave_out_is_left_out(tmp_path: Path, patterns: Any) -> None:
    arrays = under("model.", {**plain(), "extra.weight": one(1), "surprise": one(1)})
    spec = writing.save_torch(tmp_path / "x.pth", arrays)
    with pytest.raises(UserError, match=r"2 have no place in the model: extra\.weight, surprise"):
        loaded(spec)
    found = loaded(spec, leave_out=patterns)
    assert_is_plain(found)
    assert Counter(row.note for row in found.report.of("left out")) == {unwrap.UNWANTED: 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entry": "ema"}, r"weights\.entry is 'ema', under which .*x\.pth.* has no tensors; it has 'model'"),
        ({"prefix": "net."}, r"weights\.prefix is 'net\.', with which no name in .*x\.pth.* begins"),
        ({"leave_out": "tail.*"}, r"weights\.leave_out has 'tail\.\*', which no tensor of .*x\.pth.* fits"),
    ],
    ids=str,
)
def test_settings_that_name_nothing_are_refused(tmp_path: Path, settings: Any, message: str) -> None:
    spec = writing.save_torch(tmp_path / "x.pth", {"model": plain()})
    with pytest.raises(UserError, match=message):
        loaded(spec, **settings)


def test_unknown_numbers_that_may_be_learned_are_not_dropped(tmp_path: Path) -> None:
    spec = writing.save_safetensors(tmp_path / "x", {**plain(), "resweight": np.ones((), np.float32)})
    with pytest.raises(UserError, match="1 have no place in the model: resweight"):
        loaded(spec)


def test_inspection_shows_what_is_left_aside(tmp_path: Path) -> None:
    found = inspect.inspect(writing.save_torch(tmp_path / "x.pth", WRAPPED["timm"]))
    places = {each["name"]: each["place"] for each in inspect.as_json(found)["tensors"]}
    assert places["head.bias"] == "head/bias"
    assert places["state_dict.head.bias"] == "left out: another copy of a model, 'state_dict.'"
    assert places["optimizer.state.0.exp_avg"] == "left out: optimizer state"
    assert f"left out {len(plain())} (another copy" in "\n".join(inspect.text(found))


def test_inspect_of_no_known_model_exits_2_and_says_what_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = writing.save_safetensors(tmp_path / "x", {"a.weight": one(1), "b.weight": one(1)})
    with pytest.raises(SystemExit) as caught:
        cli.main(["weights", "inspect", spec, "--json"])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["taken_for"] is None
    assert "weights.entry=" in err.splitlines()[-1]
    assert "weights.prefix=" in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("jtl: error: ")


def test_inspect_and_convert_take_settings_of_weights_alone(tmp_path: Path) -> None:
    both = under("left.") | under("right.", plain(seed=1))
    spec = writing.save_safetensors(tmp_path / "x", both)
    with pytest.raises(SystemExit) as caught:
        cli.main(["weights", "inspect", spec, "--config.weights.entry=right"])
    assert caught.value.code == 0
    with pytest.raises(SystemExit) as caught:
        cli.main(["weights", "inspect", spec, "--config.train.steps=3"])
    assert caught.value.code == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_every_family_are_found_behind_a_wrapper(family: str) -> None:
    for key in FAMILIES[family].origins:
        model = writing.model_of(family, key)
        arrays = writing.named(FAMILIES[family].origins[key], writing.leaves_of(family, **model))
        tensors = {f"a.b.{name}": tensor_of(array) for name, array in arrays.items()}
        file = TensorFile(Path("x"), "none", tensors)
        found = unwrap.unwrapped(file, Config())
        assert set(found.tensors) == set(arrays), key
        known = best_known(found.tensors)
        assert known is not None
        assert known.family == family


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", ["lightning", "other head", "average"])
def test_wrapped_vit_ti16_is_the_plain_files(tmp_path: Path, real_path: Any, wrapped: str) -> None:
    path = real_path(VIT_TI16)
    arrays = {name: tensor.read() for name, tensor in open_path(path).tensors.items()}
    others = {"head.fc.weight": np.ones((5, 192), np.float32), "head.fc.bias": np.zeros(5, np.float32)}
    headless = {name: array for name, array in arrays.items() if not name.startswith("head.")}
    root = {
        "lightning": {"state_dict": under("model.", arrays), "optimizer_states": [ADAM]},
        "other head": {"state_dict": under("backbone.", headless) | others},
        "average": {
            "model": arrays,
            "model_ema": {"n_averaged": counter(), **under("module.", arrays)},
        },
    }[wrapped]
    head = "new" if wrapped == "other head" else "load"
    model = MODELS["vit"].build(vit.Config(size="ti16"), 0 if head == "new" else 1000)
    params, model_state = model.shapes()
    params = tree.map_named(lambda name, leaf: np.zeros(leaf.shape, np.float32), params)
    found = [
        load(
            spec,
            family="vit",
            config=vit.Config(size="ti16"),
            model_params=params,
            model_state=model_state,
            settings=Config(head=head),
        ).params
        for spec in (str(path), writing.save_torch(tmp_path / "x.pth", root))
    ]
    for ours, theirs in zip(*(tree.flatten(each).values() for each in found), strict=True):
        np.testing.assert_array_equal(ours, theirs)
