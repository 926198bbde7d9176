"""The script that made `convnet_sizes.json.xz`: names and shapes of every size of other libraries' networks.

Run as `python -m tests.goldens.make_convnet_sizes` with the libraries of `make_convnets.py`.
"""

import json
import lzma
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import torch
import transformers
from torch import nn

from tests.goldens.make_convnets import TorchvisionMobileNet
from tests.goldens.make_models import import_timm

FILE = Path(__file__).parent / "convnet_sizes.json.xz"


def main() -> None:
    """Write names and shapes of the tensors by 'family/size/library', as jtl calls the first two."""
    found = sizes(import_timm())
    FILE.write_bytes(lzma.compress(json.dumps(found, sort_keys=True).encode(), preset=9))
    sys.stdout.write(f"{len(found)} models, {FILE.stat().st_size} bytes\n")


def sizes(timm: Any) -> dict[str, dict[str, Any]]:
    """Return names and shapes of every size of every library, by jtl's family, size and library."""
    found: dict[str, dict[str, Any]] = {}

    def keep(family: str, size: str, library: str, build: Callable[[], nn.Module]) -> None:
        with torch.device("meta"):
            state = build().state_dict()
        found[f"{family}/{size}/{library}"] = {key: list(value.shape) for key, value in state.items()}

    for size in ("10t", "14t", "18", "18d", "26", "26d", "26t", "34", "34d", "50", "50d", "101", "101d",
                 "152", "152d", "200d"):  # fmt: skip
        keep("resnet", size, "timm", partial(timm.create_model, f"resnet{size}"))
    for size, kind, depths in (
        ("18", "basic", [2, 2, 2, 2]), ("34", "basic", [3, 4, 6, 3]), ("50", "bottleneck", [3, 4, 6, 3]),
        ("101", "bottleneck", [3, 4, 23, 3]), ("152", "bottleneck", [3, 8, 36, 3]),
    ):  # fmt: skip
        hidden = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
        config = transformers.ResNetConfig(depths=depths, layer_type=kind, hidden_sizes=hidden)
        keep("resnet", size, "huggingface", partial(transformers.ResNetForImageClassification, config))
    for size in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4"):
        keep("bit", size, "timm", partial(timm.create_model, f"resnetv2_{size}_bit"))
    config = transformers.BitConfig()
    keep("bit", "50x1", "huggingface", partial(transformers.BitForImageClassification, config))
    dims = {"atto": 40, "femto": 48, "pico": 64, "nano": 80, "tiny": 96, "small": 96, "base": 128,
            "large": 192, "xlarge": 256, "huge": 352}  # fmt: skip
    for size, dim in dims.items():
        depths = {"nano": [2, 2, 8, 2], "tiny": [3, 3, 9, 3]}.get(size, [3, 3, 27, 3])
        depths = [2, 2, 6, 2] if size in ("atto", "femto", "pico") else depths
        settings = {"depths": depths, "hidden_sizes": [dim, 2 * dim, 4 * dim, 8 * dim]}
        if size != "huge":
            keep("convnext", size, "timm", partial(timm.create_model, f"convnext_{size}"))
            config = transformers.ConvNextConfig(**settings)
            build = partial(transformers.ConvNextForImageClassification, config)
            keep("convnext", size, "huggingface", build)
        if size != "xlarge":
            keep("convnext", f"v2_{size}", "timm", partial(timm.create_model, f"convnextv2_{size}"))
            config = transformers.ConvNextV2Config(**settings)
            build = partial(transformers.ConvNextV2ForImageClassification, config)
            keep("convnext", f"v2_{size}", "huggingface", build)
    for size in ("035", "050", "075", "100", "110d", "120d", "140"):
        keep("mobilenet_v2", size, "timm", partial(timm.create_model, f"mobilenetv2_{size}"))
        if not size.endswith("d"):
            config = transformers.MobileNetV2Config(depth_multiplier=int(size) / 100, num_labels=1001)
            build = partial(transformers.MobileNetV2ForImageClassification, config)
            keep("mobilenet_v2", size, "huggingface", build)
    keep("mobilenet_v2", "100", "torchvision", partial(TorchvisionMobileNet, 1.0))
    return found | keras_sizes()


def keras_sizes() -> dict[str, dict[str, Any]]:
    """Return names and shapes of the Keras applications."""
    import keras

    builds = {
        f"resnet/keras{depth}": getattr(keras.applications, f"ResNet{depth}") for depth in (50, 101, 152)
    }
    for size in ("035", "050", "075", "100", "130", "140"):
        builds[f"mobilenet_v2/{size}"] = partial(keras.applications.MobileNetV2, alpha=int(size) / 100)
    return {
        f"{key}/keras": {
            f"{layer.name}/{variable.name}": list(variable.shape)
            for layer in build(weights=None).layers
            for variable in layer.weights
        }
        for key, build in builds.items()
    }


if __name__ == "__main__":
    main()
