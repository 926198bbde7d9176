"""Makes the references that tests/weights compare with, by PyTorch, timm, transformers and scipy.

Command: JTL_TEST_DATA=FOLDER python tests/goldens/make_weights.py (PyTorch, timm and transformers are no
dependencies of jtl; timm runs without torchvision here). Versions are written into each golden.
"""

import collections
import os
import shutil
import sys
import tempfile
import types
from argparse import Namespace
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import scipy.ndimage
import torch
from torch import nn

OUT = Path(__file__).parent / "weights"
DATA = Path(os.environ["JTL_TEST_DATA"]) / "weights"
VERSIONS = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "transformers", "scipy"))
GRIDS = (((14, 14), (24, 24)), ((4, 4), (7, 3)), ((4, 4), (2, 2)), ((6, 4), (4, 6)), ((5, 5), (1, 9)))


class Names(type):
    """A class whose every attribute is its own name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Anything(types.ModuleType):
    """A module in which every name is such a class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Names(name, (), {})


class WithoutTorchvision:
    """Finds an empty module for every part of torchvision, which timm imports for what is not used here."""

    def find_spec(self, name: str, *rest: Any) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return Anything(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


def position_embeddings() -> None:
    """Resample random tables between grids by timm and, as vit_jax does, by scipy."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    arrays: dict[str, Any] = {"versions": VERSIONS}
    for index, (old, new) in enumerate(GRIDS):
        table = np.random.default_rng(index).standard_normal((1, 1 + old[0] * old[1], 3)).astype(np.float32)
        bicubic = resample_abs_pos_embed(torch.from_numpy(table), list(new), list(old), num_prefix_tokens=1)
        zoom = (new[0] / old[0], new[1] / old[1], 1)
        bilinear = scipy.ndimage.zoom(table[0, 1:].reshape(*old, 3), zoom, order=1).reshape(1, -1, 3)
        arrays |= {
            f"{index}/grids": np.array([old, new]),
            f"{index}/table": table,
            f"{index}/bicubic": bicubic.numpy(),
            f"{index}/bilinear": np.concatenate([table[:, :1], bilinear], axis=1),
        }
    np.savez(OUT / "position_embeddings.npz", **arrays)


def input_channels() -> None:
    """Adapt a first convolution to other numbers of channels by timm."""
    from timm.models._manipulate import adapt_input_conv

    kernel = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype(np.float32))
    adapted = {f"to_{count}": adapt_input_conv(count, kernel.clone()).numpy() for count in (1, 2, 3, 4, 5, 7)}
    np.savez(OUT / "input_channels.npz", versions=VERSIONS, kernel=kernel.numpy(), **adapted)


class CifarUnit(nn.Module):
    """Two convolutions; the shortcut subsamples and pads with zero channels (He et al. 2016, option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - channels_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        half = self.missing // 2
        shortcut = nn.functional.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half)
        )
        return torch.relu(y + shortcut)


class CifarResNet(nn.Module):
    """Three stages of `units` units, 16 to 64 channels, global mean, linear layer."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = [16, 16, 32, 64]
        for stage in (1, 2, 3):
            first = CifarUnit(channels[stage - 1], channels[stage], 1 if stage == 1 else 2)
            rest = [CifarUnit(channels[stage], channels[stage], 1) for _ in range(units - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def real_logits() -> None:
    """Run the real weights on fixed noise (drawn again by the tests, channels last)."""
    import timm

    vit = timm.create_model("vit_tiny_patch16_224")
    path = DATA / "vit_tiny_patch16_224_augreg" / "vit_tiny_patch16_224.safetensors"
    vit.load_state_dict(safetensors.torch.load_file(path), strict=True)
    models = {"vit_ti16": (vit, 224, 2)}
    for name, units in (("resnet20-12fca82f", 3), ("resnet56-4bfd9763", 9)):
        model = CifarResNet(units)
        file = torch.load(DATA / "cifar10_resnets" / f"{name}.th", map_location="cpu", weights_only=True)
        state = {key.removeprefix("module."): value for key, value in file["state_dict"].items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(key.endswith("num_batches_tracked") for key in missing)
        models[name] = (model, 32, 4)
    logits = {}
    for name, (model, image_px, count) in models.items():
        images = np.random.default_rng(0).standard_normal((count, image_px, image_px, 3)).astype(np.float32)
        with torch.inference_mode():
            logits[name] = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    np.savez(OUT / "real_logits.npz", versions=VERSIONS, **logits)


def hugging_face() -> None:
    """Save tiny random models of transformers as the hub has them, with their logits."""
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
    )

    torch.manual_seed(0)
    vit_fields = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    vit = ViTConfig(**vit_fields, image_size=8, patch_size=4, num_labels=3, layer_norm_eps=1e-6)
    resnet_fields = {"hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck"}
    resnet = ResNetConfig(**resnet_fields, embedding_size=4, num_labels=3)
    models = {
        "huggingface_vit": (ViTForImageClassification(vit), 8),
        "huggingface_resnet": (ResNetForImageClassification(resnet), 16),
    }
    arrays: dict[str, Any] = {"versions": VERSIONS}
    for name, (model, image_px) in models.items():
        with torch.no_grad():
            for key, value in model.state_dict().items():
                if value.is_floating_point():
                    scale = 1 + 0.5 * torch.rand_like(value) if key.endswith("running_var") else None
                    value.copy_(0.3 * torch.randn_like(value) if scale is None else scale)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            shutil.copy(Path(folder) / "model.safetensors", OUT / f"{name}.safetensors")
        images = np.random.default_rng(0).standard_normal((2, image_px, image_px, 3)).astype(np.float32)
        with torch.inference_mode():
            arrays[name] = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
    np.savez(OUT / "huggingface_logits.npz", **arrays)


def torch_files() -> None:
    """Save tensors of every kind by torch.save, in both of its formats, and what torch.load gives of them."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = collections.OrderedDict(
        whole=base,
        transposed=base.T,
        window=base[1:3, 2:5],
        every_other=base[::2, ::3],
        scalar=torch.tensor(1.5),
        empty=torch.zeros(0, 3),
        parameter=nn.Parameter(torch.ones(2, 2)),
        bfloat16=torch.tensor([1.0, -2.5, 3e38]).to(torch.bfloat16),
        half=torch.tensor([0.5, 65504.0]).half(),
        double=torch.tensor([1e-300, 1.0], dtype=torch.float64),
        int64=torch.tensor([-(2**62), 7]),
        uint8=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
    )
    tagged = nn.Parameter(torch.full((3,), 2.0))
    tagged.note = "a Python attribute"
    arguments = Namespace(lr=0.1, device="cuda", nested=Namespace(epochs=3))
    content = {
        "epoch": 3,
        "best": np.float64(91.5),
        "history": np.arange(3),
        "args": arguments,
        "optimizer": {"state": {0: {"step": torch.tensor(5.0)}}},
        "state_dict": tensors | {"tagged": tagged},
    }
    expected = {key: value.detach().float().numpy() for key, value in content["state_dict"].items()}
    expected |= {"double": tensors["double"].numpy(), "int64": tensors["int64"].numpy()}
    torch.save(content, OUT / "tensors_legacy.pt", _use_new_zipfile_serialization=False)
    float8 = {"float8": torch.tensor([1.0, -0.5]).to(torch.float8_e4m3fn)}
    expected["float8"] = float8["float8"].float().numpy()
    torch.save(content | {"state_dict": content["state_dict"] | float8}, OUT / "tensors_zip.pt")
    np.savez(OUT / "tensors.npz", versions=VERSIONS, **expected)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    hugging_face()
    torch_files()
    sys.meta_path.append(WithoutTorchvision())
    position_embeddings()
    input_channels()
    real_logits()
