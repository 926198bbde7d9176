"""Writes jtl's models for timm and transformers, loads them there strictly, and compares the logits.

    python -m benchmarks.round_trip

Needs torch, timm and transformers. Every leaf is drawn, so that no tensor can be missed.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from torch import nn

from jtl import tree
from jtl.models import MODELS, bit, convnext, mobilenet_v2, resnet, vit
from jtl.weights import convert
from tests.goldens.make_models import import_timm

NUM_CLASSES, MAX_ERROR = 10, 1e-4
TIMM, HUGGING_FACE = ("timm", "torchvision"), ("huggingface",)
VIT: dict[str, Any] = {"image_px": 32, "patch_px": 8, "dim": 64, "depth": 2, "heads": 1, "mlp_dim": 256}
TIMM_VIT = {
    **{"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1},
    "num_classes": NUM_CLASSES,
}
HF_VIT = {
    **{
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
    },
    **{"intermediate_size": 256, "num_labels": NUM_CLASSES, "layer_norm_eps": 1e-6},
}
REGISTERS = {"num_registers": 2, "has_class_position": False, "has_layer_scale": True}


def main() -> None:
    """Compare every case and print a line each; exit with 1 where one differs."""
    timm = import_timm()
    made_with = {name: version(name) for name in ("torch", "timm", "transformers", "jax")}
    sys.stdout.write(f"{json.dumps(made_with)}\n")
    is_good = True
    for title, config, libraries, load in _cases(timm):
        error, names = compare(config, libraries, load)
        is_good &= error < MAX_ERROR
        sys.stdout.write(f"{title}: {names}, largest difference of a logit {error:.1e}\n")
    sys.exit(0 if is_good else 1)


def compare(
    config: Any, libraries: tuple[str, ...], load: Callable[[Mapping[str, np.ndarray]], nn.Module]
) -> tuple[float, str]:
    """Return the largest difference of a logit, and whose names were written."""
    model = MODELS[config.name].build(config, NUM_CLASSES)
    random = np.random.default_rng(0)
    shapes = tree.flatten(dict(zip(("params", "model_state"), model.shapes(), strict=True)))
    leaves = {name: _drawn(random, name, leaf.shape) for name, leaf in shapes.items()}
    both = tree.unflatten(leaves)
    height, width = model.preprocess.image_px
    images = random.standard_normal((2, height, width, 3)).astype(np.float32)
    ours = jax.jit(model.apply)(both["params"], both.get("model_state", {}), images).logits
    names, arrays = convert.named(config.name, libraries, leaves)
    with torch.no_grad():
        theirs = load(arrays).eval()(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    return float(np.abs(np.asarray(ours) - getattr(theirs, "logits", theirs).numpy()).max()), names


def _drawn(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    is_scale = name.endswith(("scale", "var", "gamma"))
    if is_scale:
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = max(int(np.prod(shape[:-1])), 1) if name.endswith("kernel") else 25
    return (random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def _strictly(model: nn.Module) -> Callable[[Mapping[str, np.ndarray]], nn.Module]:
    """Return what fills a PyTorch model, and refuses missing and unexpected names."""

    def load(arrays: Mapping[str, np.ndarray]) -> nn.Module:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
        return model

    return load


def _from_pretrained(kind: Any, config: Any) -> Callable[[Mapping[str, np.ndarray]], nn.Module]:
    """Return what makes transformers load a folder as a hub has it, and refuses what it would not place."""

    def load(arrays: Mapping[str, np.ndarray]) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            save_file(dict(arrays), Path(folder) / "model.safetensors", metadata={"format": "pt"})
            config.save_pretrained(folder)
            model, info = kind.from_pretrained(folder, output_loading_info=True)
        faults = {key: value for key, value in info.items() if value}
        if faults:
            raise ValueError(f"{kind.__name__} found {faults}")
        return model

    return load


Case = tuple[str, Any, tuple[str, ...], Callable[[Mapping[str, np.ndarray]], nn.Module]]


def _cases(timm: Any) -> list[Case]:
    return [*_vits(timm), *_resnets(timm), *_others(timm)]


def _vits(timm: Any) -> list[Case]:
    transformer = timm.models.vision_transformer.VisionTransformer
    registers = {"reg_tokens": 2, "no_embed_class": True, "init_values": 1e-5}
    distilled = timm.models.deit.VisionTransformerDistilled(**TIMM_VIT)
    hub = _from_pretrained(transformers.ViTForImageClassification, transformers.ViTConfig(**HF_VIT))
    return [
        ("ViT → timm", vit.Config(**VIT), TIMM, _strictly(transformer(**TIMM_VIT))),
        (
            "ViT with registers and layer scale → timm",
            vit.Config(**VIT, **REGISTERS),
            TIMM,
            _strictly(transformer(**TIMM_VIT, **registers)),
        ),
        ("ViT, distilled → timm", vit.Config(**VIT, pool="distilled"), TIMM, _strictly(distilled)),
        ("ViT → transformers", vit.Config(**VIT), HUGGING_FACE, hub),
    ]


def _resnets(timm: Any) -> list[Case]:
    widths = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
    hub = transformers.ResNetConfig(**widths, layer_type="basic", num_labels=NUM_CLASSES)
    configs = {
        "resnet18": resnet.Config(size="18", image_px=64),
        "resnet50d": resnet.Config(size="50d", image_px=64),
        "resnetv2_50x1_bit": bit.Config(size="50x1", image_px=64),
        "mobilenetv2_100": mobilenet_v2.Config(size="100", image_px=64),
    }
    return [
        *(
            (f"{name} → timm", config, TIMM, _strictly(timm.create_model(name, num_classes=NUM_CLASSES)))
            for name, config in configs.items()
        ),
        (
            "resnet18 → transformers",
            configs["resnet18"],
            HUGGING_FACE,
            _from_pretrained(transformers.ResNetForImageClassification, hub),
        ),
    ]


def _others(timm: Any) -> list[Case]:
    depths, widths = (1, 1, 2, 1), (8, 16, 24, 32)
    fields: dict[str, Any] = {"image_px": 64, "units": depths, "widths": widths}
    model = timm.models.convnext.ConvNeXt(num_classes=NUM_CLASSES, depths=depths, dims=widths)
    hub = transformers.ConvNextV2Config(
        depths=list(depths), hidden_sizes=list(widths), num_labels=NUM_CLASSES
    )
    return [
        ("ConvNeXt → timm", convnext.Config(size="tiny", **fields), TIMM, _strictly(model)),
        (
            "ConvNeXt V2 → transformers",
            convnext.Config(size="v2_tiny", **fields),
            HUGGING_FACE,
            _from_pretrained(transformers.ConvNextV2ForImageClassification, hub),
        ),
    ]


if __name__ == "__main__":
    main()
