"""Convolutional families against the libraries they come from; `tests/goldens/make_convnets.py` says how."""

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jtl import tree
from jtl.errors import UserError
from jtl.models import MODELS, bit, convnext, depthwise, mobilenet_v2, resnet
from jtl.models.layers import layer_of
from jtl.weights import FAMILIES
from jtl.weights.contract import Op, Tensor
from jtl.weights.convert import to_origin
from jtl.weights.names import assign, rows
from jtl.weights.recognise import recognise
from tests.goldens import draws
from tests.models.test_goldens import GOLDENS, assert_layers_match
from tests.weights import writing

FILE, SIZES_FILE = GOLDENS.with_name("convnets.npz"), GOLDENS.with_name("convnet_sizes.json.xz")
NUM_OUTPUTS = draws.NUM_CLASSES
IMAGE_PX = draws.CONVNET_IMAGES[1:3]
RESNET: dict[str, Any] = {"image_px": IMAGE_PX, "width": 16}
CONVNEXT: dict[str, Any] = {"image_px": IMAGE_PX, "units": (1, 2, 1, 1), "widths": (8, 16, 24, 32)}
MOBILENET: dict[str, Any] = {"size": "035", "image_px": IMAGE_PX}
SAME: dict[str, Any] = {"padding": "same", "norm_epsilon": 1e-3}
BIT = bit.Config(image_px=IMAGE_PX, units=(1, 2), width=32)


class Case(NamedTuple):
    """A golden's model: whose names its tensors have, and jtl's settings for it."""

    origin: str
    config: Any


CASES = {
    "resnet_d": Case("torchvision_d", resnet.Config(size="50d", units=(1, 2, 1, 1), **RESNET)),
    "resnet_t": Case("torchvision_d", resnet.Config(size="10t", **RESNET)),
    "resnet_v1": Case("huggingface", resnet.Config(units=(1, 2), is_v1=True, **RESNET)),
    "resnet_basic": Case("huggingface", resnet.Config(size="18", units=(1, 2), **RESNET)),
    "resnet_keras": Case("keras", resnet.Config(size="keras50", image_px=IMAGE_PX, units=(1, 2))),
    "bit_timm": Case("timm", BIT),
    "bit_huggingface": Case("huggingface", BIT),
    "bit_google": Case("google", BIT),
    "convnext": Case("timm", convnext.Config(**CONVNEXT)),
    "convnext_v2": Case("timm", convnext.Config(size="v2_atto", **CONVNEXT)),
    "convnext_facebook": Case("facebook", convnext.Config(size="v2_tiny", **CONVNEXT)),
    "convnext_huggingface": Case("huggingface", convnext.Config(final_norm_epsilon=0.1, **CONVNEXT)),
    "convnext_v2_huggingface": Case("huggingface_v2", convnext.Config(size="v2_tiny", **CONVNEXT)),
    "mobilenet_timm": Case("timm", mobilenet_v2.Config(**MOBILENET)),
    "mobilenet_torchvision": Case("torchvision", mobilenet_v2.Config(**MOBILENET)),
    # transformers 5.23.0 gives PyTorch TensorFlow's momentum, which PyTorch takes for its complement.
    "mobilenet_huggingface": Case(
        "huggingface", mobilenet_v2.Config(norm_momentum=0.003, **MOBILENET, **SAME)
    ),
    "mobilenet_huggingface_torch": Case("huggingface", mobilenet_v2.Config(**MOBILENET)),
    "mobilenet_keras": Case("keras", mobilenet_v2.Config(**MOBILENET, **SAME)),
}
TRAINED = ("resnet_d", "mobilenet_huggingface")


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return {name: file[name] for name in file.files}


@cache
def compiled(config: Any) -> Any:
    """Return the model and its compiled forward pass, one for all libraries whose settings are equal."""
    model = MODELS[config.name].build(config, NUM_OUTPUTS)
    return model, jax.jit(model.apply, static_argnames="train")


def drawn(name: str, goldens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors the script drew, under the library's names."""
    draw = draws.keras_tensor if CASES[name].origin == "keras" else draws.tensor
    shapes = json.loads(str(goldens[f"{name}/shapes"]))
    return {each: draw(name, each, tuple(shape)) for each, shape in shapes.items()}


def run(name: str, goldens: dict[str, np.ndarray], train: bool = False) -> Any:
    """Return what jtl's model makes of the script's weights and images."""
    origin, config = CASES[name]
    model, apply = compiled(config)
    leaves = tree.flatten(dict(zip(("params", "model_state"), model.shapes(), strict=True)))
    tensors = drawn(name, goldens)
    assignment = assign.assign(FAMILIES[config.name].origins[origin], tensors)
    assert assignment.unknown == ()
    values: dict[str, np.ndarray] = {}
    for source, assigned in assignment.filled.items():
        expected = tuple(tuple(leaves[target].shape) for target in assigned.targets)
        values |= zip(assigned.targets, assigned.row.op.forward(tensors[source], expected), strict=True)
    assert {leaf: value.shape for leaf, value in values.items()} == {
        leaf: each.shape for leaf, each in leaves.items()
    }
    both = tree.unflatten(values)
    images = draws.images(name, draws.CONVNET_IMAGES)
    # Keras's ResNet reads blue first, which the table of names undoes.
    images = images[..., ::-1] if name == "resnet_keras" else images
    return apply(both["params"], both.get("model_state", {}), images, train=train)


def test_the_goldens_say_what_made_them(goldens: dict[str, np.ndarray]) -> None:
    made_with = json.loads(str(goldens["made_with"]))
    assert made_with["script"] == "tests/goldens/make_convnets.py"
    versions = {
        name: made_with[name].partition("+")[0] for name in ("torch", "timm", "transformers", "keras")
    }
    assert versions == {"torch": "2.13.0", "timm": "1.0.31", "transformers": "5.23.0", "keras": "3.15.1"}


@pytest.mark.parametrize("name", CASES)
def test_evaluation_is_the_librarys_layer_by_layer(name: str, goldens: dict[str, np.ndarray]) -> None:
    outputs = run(name, goldens)
    assert_layers_match(name, outputs.intermediates, goldens)
    np.testing.assert_allclose(outputs.logits, goldens[f"{name}/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_the_librarys_with_its_statistics(name: str, goldens: dict[str, np.ndarray]) -> None:
    origin, config = CASES[name]
    outputs = run(name, goldens, train=True)
    np.testing.assert_allclose(outputs.logits, goldens[f"{name}/logits_in_training"], rtol=0, atol=1e-4)
    stats = tree.flatten({"model_state": outputs.model_state})
    prefix = f"{name}/stats/"
    sources = [key.removeprefix(prefix) for key in goldens if key.startswith(prefix)]
    assignment = assign.assign(FAMILIES[config.name].origins[origin], sources)
    assert len(assignment.filled) == len(stats)
    for source, assigned in assignment.filled.items():
        found, golden = draws.sampled(source, stats[assigned.targets[0]]), goldens[f"{prefix}{source}"]
        np.testing.assert_allclose(found, golden, rtol=1e-5, atol=1e-5 * np.abs(golden).max(), err_msg=source)


# timm's names by family, library and the last letter of the size, where the origin is called otherwise.
ORIGINS = {
    ("resnet", "timm", ""): "torchvision",
    ("resnet", "timm", "d"): "torchvision_d",
    ("resnet", "timm", "t"): "torchvision_d",
}


def leaves_of(config: Any, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's leaves by full name."""
    model = MODELS[config.name].build(config, num_outputs)
    leaves = tree.flatten(dict(zip(("params", "model_state"), model.shapes(), strict=True)))
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}


@cache
def size_leaves(family: str, size: str, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a size's leaves; units after a stage's second are taken as alike, to trace few."""
    units = MODELS[family].sizes[size]["units"]
    config = MODELS[family].Config(size=size, units=tuple(min(count, 2) for count in units))
    leaves = leaves_of(config, num_outputs)
    for stage, count in enumerate(units, 1):
        second = {name: shape for name, shape in leaves.items() if f"/block{stage}/unit2/" in name}
        for unit in range(3, count + 1):
            leaves |= {name.replace("/unit2/", f"/unit{unit}/"): each for name, each in second.items()}
    return leaves


@pytest.mark.parametrize("config", [bit.Config(), convnext.Config(), mobilenet_v2.Config(), resnet.Config()])
def test_units_after_a_stages_second_are_alike(config: Any) -> None:
    assert leaves_of(config, 10) == size_leaves(config.name, config.size, 10)


PUBLISHED = json.loads(lzma.decompress(SIZES_FILE.read_bytes()))


@pytest.mark.parametrize("key", PUBLISHED)
def test_every_published_size_has_exactly_the_librarys_tensors(key: str) -> None:
    family, size, library = key.split("/")
    tensors = {
        name: Tensor(tuple(shape), "float32", lambda: np.zeros(())) for name, shape in PUBLISHED[key].items()
    }
    origin = ORIGINS.get((family, library, size[-1]), ORIGINS.get((family, library, ""), library))
    origin = "huggingface_v2" if (origin, size[:2]) == ("huggingface", "v2") else origin
    assignment = assign.assign(FAMILIES[family].origins[origin], tensors)
    assert assignment.unknown == ()
    named = assign.model_shapes(assignment.filled, tensors)
    found = FAMILIES[family].recognise(named)
    assert found is not None
    assert found[0] == {"size": size}
    leaves = size_leaves(family, size, named["params/head/kernel"][1])
    filled: dict[str, tuple[int, ...]] = {}
    for name, (row, targets) in assignment.filled.items():
        expected = tuple(leaves[target] for target in targets)
        assert assign.target_shapes(row, tensors[name].shape, expected) == expected, name
        filled |= zip(targets, expected, strict=True)
    assert filled == leaves


KERNELS = {
    "POINTWISE": ((6, 4), ((4, 6),)),
    "POINTWISE to a convolution": ((6, 4, 1, 1), ((1, 1, 4, 6),)),
    "POINTWISE_DENSE": ((6, 4), ((4, 6),)),
    "POINTWISE_DENSE to a convolution": ((6, 4), ((1, 1, 4, 6),)),
    "POINTWISE_CONV": ((6, 4, 1, 1), ((4, 6),)),
    "FLAX_CONV": ((1, 1, 4, 6), ((4, 6),)),
    "VECTOR": ((1, 1, 1, 6), ((6,),)),
    "DEPTHWISE": ((3, 2, 5, 1), ((3, 2, 1, 5),)),
    "BLUE_FIRST": ((2, 2, 3, 4), ((2, 2, 3, 4),)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_operation_and_inverse_are_identity(name: str) -> None:
    source_shape, shapes = KERNELS[name]
    source = np.arange(np.prod(source_shape)).reshape(source_shape)
    op = getattr(rows, name.split()[0])
    parts = op.forward(source, shapes)
    assert tuple(part.shape for part in parts) == shapes
    np.testing.assert_array_equal(op.inverse(parts), source)


def test_every_operation_is_under_test() -> None:
    ops = {name for name, value in vars(rows).items() if isinstance(value, Op)}
    assert ops == {name.split()[0] for name in KERNELS}


@pytest.mark.parametrize(
    ("family", "values", "expected"),
    [
        ("resnet", {"model_type": "resnet", "hidden_act": "relu"}, {}),
        ("resnet", {"model_type": "resnet", "downsample_in_bottleneck": True}, {"is_v1": True}),
        ("resnet", {"architecture": "resnet50d"}, {}),
        ("resnet", {"architecture": "resnext50_32x4d"}, None),
        ("resnet", {"model_type": "vit"}, None),
        ("bit", {"model_type": "bit", "num_groups": 16}, {"num_groups": 16}),
        ("bit", {"architecture": "resnetv2_50x1_bit"}, {}),
        ("bit", {"architecture": "resnetv2_50"}, None),
        ("convnext", {"model_type": "convnext", "layer_norm_eps": 1e-12}, {"final_norm_epsilon": 1e-12}),
        ("convnext", {"model_type": "convnextv2"}, {"final_norm_epsilon": 1e-12}),
        (
            "convnext",
            {"architecture": "convnextv2_tiny", "pretrained_cfg": {"input_size": [3, 384, 384]}},
            {"image_px": (384, 384)},
        ),
        ("convnext", {"architecture": "convnext_atto_ols"}, None),
        (
            "mobilenet_v2",
            {"model_type": "mobilenet_v2", "image_size": 160},
            {"padding": "same", "norm_epsilon": 1e-3, "image_px": 160},
        ),
        (
            "mobilenet_v2",
            {"model_type": "mobilenet_v2", "tf_padding": False, "layer_norm_eps": 1e-5},
            {"padding": "torch", "norm_epsilon": 1e-5, "image_px": 224},
        ),
        ("mobilenet_v2", {"architecture": "mobilenetv2_110d"}, {}),
        ("mobilenet_v2", {"architecture": "mobilenetv3_large_100"}, None),
    ],
)
def test_config_of_the_hub_gives_settings(family: str, values: Any, expected: Any) -> None:
    found = FAMILIES[family].of_config(values)
    assert found == expected
    assert found is None or MODELS[family].Config(**found)


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("resnet", {"model_type": "resnet", "hidden_act": "gelu"}, "has hidden_act 'gelu'.*'relu' only"),
        ("bit", {"model_type": "bit", "layer_type": "bottleneck"}, "has layer_type 'bottleneck'"),
        ("convnext", {"model_type": "convnext", "hidden_act": "relu"}, "has hidden_act 'relu'"),
        ("mobilenet_v2", {"model_type": "mobilenet_v2", "output_stride": 16}, "has output_stride 16"),
    ],
)
def test_config_of_another_kind_is_refused(family: str, values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FAMILIES[family].of_config(values)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("resnet", {"root": "deeper"}, "model.root is 'deeper'; expected one of"),
        ("resnet", {"shortcut": "pool"}, "model.shortcut is 'pool'; expected one of"),
        ("resnet", {"norm_epsilon": -1.0}, "model.norm_epsilon is -1.0; expected 0 <= value"),
        ("bit", {"num_groups": 0}, "model.num_groups is 0; expected 1 <= value"),
        ("convnext", {"version": 3}, "model.version is 3; expected 0 <= value <= 2"),
        ("convnext", {"widths": (0,)}, r"model.widths is \(0,\); expected 1 <= value"),
        ("convnext", {"mlp": "linear"}, "model.mlp is 'linear'; expected one of"),
        ("convnext", {"final_norm_epsilon": 0.0}, "model.final_norm_epsilon is 0.0; expected 0 < value"),
        ("mobilenet_v2", {"padding": "valid"}, "model.padding is 'valid'; expected one of"),
        ("mobilenet_v2", {"width": -1.0}, "model.width is -1.0; expected 0 <= value"),
        ("mobilenet_v2", {"units": (1,) * 8}, "expected 7 stages or fewer"),
        ("mobilenet_v2", {"norm_momentum": 1.0}, "model.norm_momentum is 1.0; expected 0 <= value"),
    ],
)
def test_settings_out_of_range_are_refused(family: str, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS[family].Config(**changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (bit.Config(width=48), "model.width is 48; expected a multiple of model.num_groups, 32"),
        (convnext.Config(units=(1, 1)), "expected one of each a stage"),
        (convnext.Config(image_px=16), "expected 32 or more"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(config: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS[config.name].resolve(config)


def test_what_halves_the_map_is_in_the_layer_of_the_unit_after_it() -> None:
    layers = convnext.build(convnext.tiny(), 3).layers
    assert layer_of("block2/conv_down/kernel", layers) == layer_of("block2/unit1/fc1/kernel", layers) == 2
    assert layer_of("norm_final/scale", layers) == 2


def test_stochastic_depth_grows_from_the_first_unit_to_the_last() -> None:
    config = convnext.Config(image_px=8, units=(2,), widths=(4,), drop_path=0.99)
    model = convnext.build(config, 0)
    params, state = model.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 1.0, params)
    images = np.ones((2, 8, 8, 3), np.float32)
    apply = jax.jit(model.apply, static_argnames="train")
    plain = apply(params, state, images).intermediates
    dropped = apply(params, state, images, train=True, key=jax.random.key(0)).intermediates
    np.testing.assert_array_equal(dropped["block1/unit1"], plain["block1/unit1"])
    np.testing.assert_array_equal(dropped["block1/unit2"], dropped["block1/unit1"])
    assert not np.array_equal(plain["block1/unit2"], plain["block1/unit1"])


def test_response_norm_of_a_dark_channel_has_a_finite_gradient() -> None:
    module = convnext._ResponseNorm()
    x = np.zeros((1, 2, 2, 3), np.float32)
    variables = {"params": {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}}
    grad = jax.grad(lambda x: module.apply(variables, x).sum())(x)
    assert np.all(np.isfinite(grad))


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(7, 1, ((3, 3), (3, 3))), (3, 2, ((0, 1), (1, 1))), (3, 2, ((1, 1), (0, 0)))],
)
def test_shifted_products_are_the_grouped_convolution_with_its_gradients(
    size: int, stride: int, padding: depthwise.Padding
) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 8, 5, 3)).astype(np.float32)
    kernel = random.standard_normal((size, size, 1, 3)).astype(np.float32)

    def loss(x: Any, kernel: Any, convolve: Any) -> Any:
        return (convolve(x, kernel, stride, padding) ** 3).sum()

    both = [
        jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)(x, kernel, convolve)
        for convolve in (depthwise.shifted, depthwise._grouped)
    ]
    for found, expected in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("timm", {}),
        ("huggingface", {"padding": "same", "norm_epsilon": 1e-3}),
        ("keras", {"padding": "same", "norm_epsilon": 1e-3, "norm_momentum": 0.999}),
    ],
)
def test_file_alone_tells_the_librarys_padding(origin: str, expected: Any, tmp_path: Path) -> None:
    tensors, _ = to_origin(FAMILIES["mobilenet_v2"].origins[origin], writing.leaves_of("mobilenet_v2"))
    found = recognise(writing.save_safetensors(tmp_path / "weights.safetensors", tensors))
    config = mobilenet_v2.Config(**found.config_fields)
    settings = mobilenet_v2.Config(**expected)
    for name in ("padding", "norm_epsilon", "norm_momentum"):
        assert getattr(config, name) == getattr(settings, name)
