"""The script that made `convnets.npz`: convolutional networks of other libraries, layer by layer.

Run as `python -m tests.goldens.make_convnets` with torch 2.13.0, timm 1.0.31, transformers 5.23.0 and keras
3.15.1 on JAX. `draws.py` draws weights and inputs by the libraries' own names. torchvision's MobileNetV2 and
the pieces of other networks that no library here has are written out below.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import numpy as np
import torch
import transformers
from torch import nn

from tests.goldens import draws
from tests.goldens.make_models import drawn, evaluated, import_timm, trained

FILE = Path(__file__).parent / "convnets.npz"
IMAGES = draws.CONVNET_IMAGES
NUM_CLASSES = draws.NUM_CLASSES
Goldens = dict[str, np.ndarray]


def main() -> None:
    """Write the goldens."""
    timm = import_timm()
    goldens: Goldens = {}
    for make in (resnets, bits, convnexts, mobilenets, keras_models):
        goldens |= make(timm)
    import keras

    made_with = {
        "script": "tests/goldens/make_convnets.py",
        "torch": torch.__version__,
        "timm": timm.__version__,
        "transformers": transformers.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    goldens["made_with"] = np.array(json.dumps(made_with))
    np.savez_compressed(FILE, **goldens)
    sys.stdout.write(f"{len(goldens)} arrays, {FILE.stat().st_size} bytes, {made_with}\n")


class Logits(nn.Module):
    """A Hugging Face model that returns its logits alone, under its own parameter names."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.model(x).logits

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the inner model's."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load the inner model's."""
        return self.model.load_state_dict(*args, **kwargs)


def one(model: nn.Module, name: str, layers: Mapping[str, nn.Module], is_trained: bool = False) -> Goldens:
    """Return the goldens of a model with drawn weights."""
    goldens: Goldens = {}
    drawn(model, name, goldens)
    goldens |= evaluated(model, name, IMAGES, layers)
    return goldens | (trained(model, name, IMAGES) if is_trained else {})


def units(stages: Any) -> dict[str, nn.Module]:
    """Return the modules of stages by the names of jtl's intermediates."""
    return {f"block{s}/unit{u}": unit for s, stage in enumerate(stages, 1) for u, unit in enumerate(stage, 1)}


def resnets(timm: Any) -> Goldens:
    """Return the goldens of timm's -d and -t, and of transformers' ResNets."""
    kinds, goldens = timm.models.resnet, {}
    settings = {"stem_width": 8, "avg_down": True, "channels": (16, 32, 64, 128), "num_classes": NUM_CLASSES}
    for name, block, counts, stem in (
        ("resnet_d", kinds.Bottleneck, (1, 2, 1, 1), "deep"),
        ("resnet_t", kinds.BasicBlock, (1, 1, 1, 1), "deep_tiered"),
    ):
        model = kinds.ResNet(block, counts, stem_type=stem, **settings)
        stages = [getattr(model, f"layer{stage}") for stage in (1, 2, 3, 4)]
        goldens |= one(model, name, {"root": model.maxpool, **units(stages)}, is_trained=name == "resnet_d")
    for name, changes in (
        ("resnet_v1", {"hidden_sizes": [64, 128], "downsample_in_bottleneck": True}),
        ("resnet_basic", {"hidden_sizes": [16, 32], "layer_type": "basic"}),
    ):
        config = transformers.ResNetConfig(
            embedding_size=16, depths=[1, 2], num_labels=NUM_CLASSES, **changes
        )
        model = transformers.ResNetForImageClassification(config)
        stages = [stage.layers for stage in model.resnet.encoder.stages]
        layers = {"root": model.resnet.embedder, **units(stages)}
        goldens |= one(Logits(model), name, layers)
    return goldens


def bits(timm: Any) -> Goldens:
    """Return the goldens of BiT from timm, transformers, and Google's names through timm's reader."""
    module = timm.models.resnetv2

    def build() -> Any:
        return module.ResNetV2(
            [1, 2],
            channels=(128, 256),
            stem_chs=32,
            stem_type="fixed",
            conv_layer=partial(timm.layers.StdConv2d, eps=1e-8),
            num_classes=NUM_CLASSES,
        )

    def layers_of(model: Any) -> dict[str, nn.Module]:
        return {"root": model.stem, **units([stage.blocks for stage in model.stages])}

    model = build()
    goldens = one(model, "bit_timm", layers_of(model))
    config = transformers.BitConfig(
        embedding_size=32, hidden_sizes=[128, 256], depths=[1, 2], num_labels=NUM_CLASSES
    )
    model = transformers.BitForImageClassification(config)
    stages = [stage.layers for stage in model.bit.encoder.stages]
    goldens |= one(Logits(model), "bit_huggingface", {"root": model.bit.embedder, **units(stages)})
    model = build()
    shapes = google_shapes(model)
    tensors = {key: draws.tensor("bit_google", key, shape) for key, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        np.savez(Path(folder) / "bit.npz", **tensors)
        model.load_pretrained(str(Path(folder) / "bit.npz"))
    goldens["bit_google/shapes"] = np.array(json.dumps(shapes))
    return goldens | evaluated(model, "bit_google", IMAGES, layers_of(model))


def google_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the names that timm's reader asks for, with shapes in Google's layout."""
    conv, names = "standardized_conv2d/kernel", {"stem.conv.weight": "resnet/root_block/"}
    names = {"stem.conv.weight": f"resnet/root_block/{conv}"}
    for stage, blocks in enumerate(model.stages):
        for block in range(len(blocks.blocks)):
            ours, theirs = f"stages.{stage}.blocks.{block}", f"resnet/block{stage + 1}/unit{block + 1:02d}"
            for number, letter in zip((1, 2, 3), "abc", strict=True):
                names[f"{ours}.conv{number}.weight"] = f"{theirs}/{letter}/{conv}"
                names[f"{ours}.norm{number}.weight"] = f"{theirs}/{letter}/group_norm/gamma"
                names[f"{ours}.norm{number}.bias"] = f"{theirs}/{letter}/group_norm/beta"
            names[f"{ours}.downsample.conv.weight"] = f"{theirs}/a/proj/{conv}"
    names |= {"norm.weight": "resnet/group_norm/gamma", "norm.bias": "resnet/group_norm/beta"}
    names |= {"head.fc.weight": "resnet/head/conv2d/kernel", "head.fc.bias": "resnet/head/conv2d/bias"}
    state = model.state_dict()
    assert state.keys() <= names.keys()
    shapes = {names[key]: tuple(value.shape) for key, value in state.items()}
    return {key: shape if len(shape) == 1 else (*shape[2:], *shape[1::-1]) for key, shape in shapes.items()}


def convnexts(timm: Any) -> Goldens:
    """Return the goldens of ConvNeXts from timm, transformers, and Facebook's names through timm's reader."""
    module, goldens = timm.models.convnext, {}
    depths, dims = (1, 2, 1, 1), (8, 16, 24, 32)
    build = partial(module.ConvNeXt, depths=depths, dims=dims, num_classes=NUM_CLASSES)
    versions = {
        "convnext": {},
        "convnext_v2": {"use_grn": True, "ls_init_value": None, "conv_mlp": True},
        "convnext_facebook": {"use_grn": True, "ls_init_value": None},
    }
    for name, settings in versions.items():
        model = build(**settings)
        layers = {"root": model.stem, **units([stage.blocks for stage in model.stages])}
        if name != "convnext_facebook":
            goldens |= one(model, name, layers)
            continue
        shapes = facebook_shapes(model)
        tensors = {key: torch.from_numpy(draws.tensor(name, key, shape)) for key, shape in shapes.items()}
        model.load_state_dict(module.checkpoint_filter_fn({"model": tensors}, model))
        goldens[f"{name}/shapes"] = np.array(json.dumps(shapes))
        goldens |= evaluated(model, name, IMAGES, layers)
    kinds = {
        "convnext_huggingface": (transformers.ConvNextConfig, transformers.ConvNextForImageClassification),
        "convnext_v2_huggingface": (
            transformers.ConvNextV2Config,
            transformers.ConvNextV2ForImageClassification,
        ),
    }
    for name, (config_type, model_type) in kinds.items():
        # The last normalisation's own epsilon would not be seen at its default of 1e-12.
        epsilon = 0.1 if name == "convnext_huggingface" else 1e-6
        config = config_type(
            depths=list(depths), hidden_sizes=list(dims), num_labels=NUM_CLASSES, layer_norm_eps=epsilon
        )
        model = model_type(config)
        backbone = getattr(model, model.base_model_prefix)
        stages = [stage.layers for stage in backbone.encoder.stages]
        goldens |= one(Logits(model), name, {"root": backbone.embeddings, **units(stages)})
    return goldens


def facebook_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return Facebook's names and shapes of a ConvNeXt V2, as its repository has them."""
    pairs = (
        ("stem.", "downsample_layers.0."),
        (".downsample.", "."),
        (".blocks.", "."),
        ("conv_dw", "dwconv"),
        ("mlp.fc", "pwconv"),
        ("mlp.grn.weight", "grn.gamma"),
        ("mlp.grn.bias", "grn.beta"),
        ("head.fc.", "head."),
        ("head.norm.", "norm."),
    )
    shapes = {}
    for key, value in model.state_dict().items():
        theirs, shape = key, tuple(value.shape)
        for ours, new in pairs:
            theirs = theirs.replace(ours, new)
        if ".downsample." in key:
            theirs = theirs.replace("stages.", "downsample_layers.")
        shapes[theirs] = (1, 1, 1, *shape) if ".grn." in key else shape
    return shapes


def mobilenets(timm: Any) -> Goldens:
    """Return the goldens of MobileNetV2 from timm, torchvision's structure, and transformers."""
    model = timm.create_model("mobilenetv2_035", num_classes=NUM_CLASSES)
    layers = {"root": model.bn1, **units(model.blocks), "final": model.bn2}
    goldens = one(model, "mobilenet_timm", layers)
    model = TorchvisionMobileNet(0.35)
    goldens |= one(model, "mobilenet_torchvision", mobilenet_layers(model.features))
    for name, tf_padding in (("mobilenet_huggingface", True), ("mobilenet_huggingface_torch", False)):
        config = transformers.MobileNetV2Config(
            depth_multiplier=0.35,
            num_labels=NUM_CLASSES,
            tf_padding=tf_padding,
            layer_norm_eps=1e-3 if tf_padding else 1e-5,
            classifier_dropout_prob=0.0,
        )
        model = transformers.MobileNetV2ForImageClassification(config)
        backbone = model.mobilenet_v2
        layers = mobilenet_layers([backbone.conv_stem.first_conv, backbone.conv_stem, *backbone.layer])
        goldens |= one(Logits(model), name, {**layers, "final": backbone.conv_1x1}, is_trained=tf_padding)
    return goldens


def mobilenet_layers(modules: Any) -> dict[str, nn.Module]:
    """Return modules that are counted through by the names of jtl's intermediates."""
    names = [
        f"block{stage}/unit{unit}"
        for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1), 1)
        for unit in range(1, count + 1)
    ]
    return dict(zip(["root", *names], modules, strict=False))


class TorchvisionMobileNet(nn.Module):
    """MobileNetV2 with the parameter names of torchvision 0.28's `mobilenet_v2`."""

    def __init__(self, width: float) -> None:
        super().__init__()
        rounded = import_timm().layers.make_divisible
        inputs = rounded(32 * width)
        features: list[nn.Module] = [conv_norm_act(3, inputs, 3, 2, 1)]
        table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
        for expansion, channels, count, stride in (*table, (6, 320, 1, 1)):
            for index in range(count):
                outputs = rounded(channels * width)
                features.append(TorchvisionUnit(inputs, outputs, stride if index == 0 else 1, expansion))
                inputs = outputs
        features.append(conv_norm_act(inputs, 1280, 1, 1, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, NUM_CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(self.features(x).mean((2, 3)))


class TorchvisionUnit(nn.Module):
    """torchvision's InvertedResidual."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [conv_norm_act(inputs, hidden, 1, 1, 1)] if expansion != 1 else []
        layers.append(conv_norm_act(hidden, hidden, 3, stride, hidden))
        self.conv = nn.Sequential(*layers, nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the unit's output."""
        return x + self.conv(x) if self.has_skip else self.conv(x)


def conv_norm_act(inputs: int, outputs: int, size: int, stride: int, groups: int) -> nn.Sequential:
    """Return torchvision's Conv2dNormActivation."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


def keras_models(timm: Any) -> Goldens:
    """Return the goldens of Keras applications' MobileNetV2, and of ResNet50 on its first stages alone."""
    import keras
    from keras.src.applications import resnet

    del timm
    shape = IMAGES[1:]
    mobilenet = keras.applications.MobileNetV2(shape, alpha=0.35, weights=None, classes=NUM_CLASSES)
    # Keras calls a unit's output by its last layer; the first convolution's and the last's are activations.
    ends = ["expanded_conv_project_BN", *(f"block_{index}_project_BN" for index in range(1, 17))]
    names = {layer.name for layer in mobilenet.layers}
    ends = [each.replace("project_BN", "add") if each.replace("project_BN", "add") in names else each
            for each in ends]  # fmt: skip
    layers = mobilenet_layers(["Conv1_relu", *ends]) | {"final": "out_relu"}
    goldens = keras_one(mobilenet, "mobilenet_keras", layers)

    def stages(x: Any) -> Any:
        x = resnet.stack_residual_blocks_v1(x, 64, 1, stride1=1, name="conv2")
        return resnet.stack_residual_blocks_v1(x, 128, 2, name="conv3")

    model = resnet.ResNet(
        stages, False, True, weights=None, input_shape=shape, classes=NUM_CLASSES, classifier_activation=None,
        name="resnet", weights_name=None,
    )  # fmt: skip
    layers = {"root": "pool1_pool", "block1/unit1": "conv2_block1_out"}
    layers |= {f"block2/unit{unit}": f"conv3_block{unit}_out" for unit in (1, 2)}
    return goldens | keras_one(model, "resnet_keras", layers)


def keras_one(model: Any, name: str, layers: Mapping[str, str]) -> Goldens:
    """Return the goldens of a Keras model with drawn weights, named 'layer/variable', without its softmax."""
    import keras

    variables = {
        f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.weights
    }
    shapes = {key: tuple(variable.shape) for key, variable in variables.items()}
    for key, variable in variables.items():
        variable.assign(draws.keras_tensor(name, key, shapes[key]))
    model.layers[-1].activation = keras.activations.linear
    inner = keras.Model(model.inputs, [model.get_layer(each).output for each in layers.values()])
    images = draws.images(name, IMAGES)
    found = inner([images], training=False)
    goldens = {
        f"{name}/layers/{layer}": draws.sampled(layer, np.asarray(value))
        for layer, value in zip(layers, found, strict=True)
    }
    goldens[f"{name}/logits"] = np.asarray(model([images], training=False))
    goldens[f"{name}/shapes"] = np.array(json.dumps(shapes))
    return goldens


if __name__ == "__main__":
    main()
