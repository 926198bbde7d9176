"""The script that made `models.npz`: outputs of PyTorch models whose weights and inputs `draws.py` draws.

Run as `python -m tests.goldens.make_models [folder of real weights]` with torch 2.13.0 and timm 1.0.31; with
no folder the goldens of real weights are kept as they are. timm imports torchvision for things that these
models do not use: a stand-in takes its place.
"""

import json
import sys
import types
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.goldens import draws

FILE = Path(__file__).parent / "models.npz"
VIT = {
    "img_size": (32, 48),
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "num_classes": draws.NUM_CLASSES,
}
VITS = {
    "vit_cls": {},
    "vit_gap": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "vit_gap_registers": {
        "global_pool": "avg", "class_token": False, "fc_norm": False, "reg_tokens": 3, "no_embed_class": True,
    },
    "vit_map": {"global_pool": "map", "class_token": False},
}  # fmt: skip


def main() -> None:
    """Write the goldens of drawn weights, and of the real weights in the folder given."""
    timm = import_timm()
    goldens: dict[str, np.ndarray] = {}
    for name in ("resnet18", "resnet50"):
        model = drawn(timm.create_model(name, num_classes=draws.NUM_CLASSES), name, goldens)
        goldens |= evaluated(model, name, draws.RESNET_IMAGES, resnet_layers(model))
        goldens |= trained(model, name, draws.RESNET_IMAGES)
    for name, settings in VITS.items():
        model = drawn(timm.models.vision_transformer.VisionTransformer(**VIT, **settings), name, goldens)
        goldens |= evaluated(model, name, draws.VIT_IMAGES, vit_layers(model))
    goldens |= real(timm, Path(sys.argv[1])) if len(sys.argv) > 1 else kept_real()
    made_with = {
        "script": "tests/goldens/make_models.py",
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    made_with |= {"numpy": np.__version__, "python": sys.version.split()[0]}
    goldens["made_with"] = np.array(json.dumps(made_with))
    np.savez_compressed(FILE, **goldens)
    sys.stdout.write(f"{len(goldens)} arrays, {FILE.stat().st_size} bytes, {made_with}\n")


def import_timm() -> Any:
    """Import timm with stand-ins for torchvision's modules, whose every name is an empty class."""

    class AnyName(type):
        def __getattr__(cls, name: str) -> str:
            return name

    class StandIn(types.ModuleType):
        __path__: list[str] = []  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return AnyName(name, (), {})

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            return ModuleSpec(name, Finder) if name.split(".")[0] == "torchvision" else None

        @staticmethod
        def create_module(spec: ModuleSpec) -> types.ModuleType:
            return StandIn(spec.name)

        @staticmethod
        def exec_module(module: types.ModuleType) -> None:
            del module

    sys.meta_path.insert(0, Finder)
    import timm

    return timm


def drawn(model: nn.Module, name: str, goldens: dict[str, np.ndarray]) -> nn.Module:
    """Fill the model with drawn weights, and note the names and shapes they are drawn by."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if value.ndim}
    state = {key: torch.from_numpy(draws.tensor(name, key, shape)) for key, shape in shapes.items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    goldens[f"{name}/shapes"] = np.array(json.dumps(shapes))
    return model


def resnet_layers(model: Any) -> dict[str, nn.Module]:
    """Return a ResNet's modules by the names of jtl's intermediates."""
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    units = {
        f"block{s}/unit{u}": unit for s, stage in enumerate(stages, 1) for u, unit in enumerate(stage, 1)
    }
    return {"root": model.maxpool, **units}


def vit_layers(model: Any) -> dict[str, nn.Module]:
    """Return a ViT's modules by the names of jtl's intermediates."""
    blocks = {f"block{index}": block for index, block in enumerate(model.blocks)}
    return {"embedding": model.norm_pre, **blocks, "encoder_norm": model.norm}


def evaluated(
    model: nn.Module, name: str, shape: tuple[int, ...], layers: Mapping[str, nn.Module]
) -> dict[str, np.ndarray]:
    """Return the logits in evaluation mode, and samples of every layer's output (channels last)."""
    goldens: dict[str, np.ndarray] = {}

    def keep(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            values = output.permute(0, 2, 3, 1) if output.ndim == 4 else output
            goldens[f"{name}/layers/{layer}"] = draws.sampled(layer, values.numpy())

        return hook

    handles = [module.register_forward_hook(keep(layer)) for layer, module in layers.items()]
    with torch.no_grad():
        goldens[f"{name}/logits"] = model.eval()(torch_images(name, shape)).numpy()
    for handle in handles:
        handle.remove()
    return goldens


def trained(model: nn.Module, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the logits in training mode, and samples of the running statistics after it."""
    with torch.no_grad():
        logits = model.train()(torch_images(name, shape)).numpy()
    stats = {key: value.numpy() for key, value in model.state_dict().items() if "running_" in key}
    samples = {f"{name}/stats/{key}": draws.sampled(key, value) for key, value in stats.items()}
    return {f"{name}/logits_in_training": logits, **samples}


def torch_images(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the drawn images channels first."""
    return torch.from_numpy(draws.images(name, shape)).permute(0, 3, 1, 2).contiguous()


def real(timm: Any, folder: Path) -> dict[str, np.ndarray]:
    """Return the goldens of public weights."""
    file = folder / "vit_tiny_patch16_224_augreg" / "vit_tiny_patch16_224.safetensors"
    vit = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(file))
    goldens = evaluated(vit, "real/vit_ti16", draws.REAL_VIT_IMAGES, vit_layers(vit))
    for name, units, file_name in (("20", 3, "resnet20-12fca82f.th"), ("56", 9, "resnet56-4bfd9763.th")):
        state = torch.load(folder / "cifar10_resnets" / file_name, map_location="cpu")["state_dict"]
        model = CifarResNet(units)
        model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
        goldens |= evaluated(model, f"real/cifar_resnet_{name}", draws.CIFAR_IMAGES, {})
    return goldens


def kept_real() -> dict[str, np.ndarray]:
    """Return the goldens of public weights that the file has."""
    with np.load(FILE) as file:
        return {key: file[key] for key in file.files if key.startswith("real/")}


class CifarResNet(nn.Module):
    """He et al. 2016, sec. 4.2, with the parameter names of the public weights."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        stages = []
        for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            first = CifarUnit(inputs, outputs, stride)
            stages.append(nn.Sequential(first, *(CifarUnit(outputs, outputs, 1) for _ in range(units - 1))))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class CifarUnit(nn.Module):
    """A basic unit whose shortcut takes every other pixel and pads channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the unit's output."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return torch.relu(y + shortcut)


if __name__ == "__main__":
    main()
