"""A probe in PyTorch and timm that runs its frozen backbone at every step, as such scripts usually do.

    python benchmarks/probe_torch.py --weights MODEL.safetensors --data FOLDER --epochs 10

FOLDER has `train/CLASS/…` and `val/CLASS/…`; images are read as timm's evaluation does (bicubic to 248 px,
the centre of 224). Prints one JSON object. Needs torch, timm and safetensors alone: `benchmarks.probe` starts
it.
"""

import argparse
import json
import math
import sys
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
MODEL, BATCH, EVAL_BATCH, RATE, WARMUP = "vit_tiny_patch16_224", 32, 64, 5e-3, 0.1


class _StandIns:
    """Finds torchvision, which timm imports and this script does without, as modules of empty classes."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, _StandIns) if name.split(".")[0] == "torchvision" else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = _empty  # PEP 562
        return module

    @staticmethod
    def exec_module(module: types.ModuleType) -> None:
        del module


class _AnyName(type):
    """A class that has every attribute, which is its name."""

    def __getattr__(cls, name: str) -> str:
        return name


def _empty(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _AnyName(name, (), {})


def main() -> None:
    """Train the head, measure it after every epoch, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    sys.meta_path.insert(0, _StandIns)
    import timm
    import torch
    from safetensors.torch import load_file

    torch.manual_seed(0)
    classes = sorted(path.name for path in (args.data / "train").iterdir())
    model = timm.create_model(MODEL)
    model.load_state_dict(load_file(args.weights))
    model.eval().requires_grad_(False)
    head = torch.nn.Linear(model.embed_dim, len(classes))
    torch.nn.init.zeros_(head.weight)
    loaders = {split: _loader(args, classes, split) for split in ("train", "val")}
    num_steps = math.ceil(args.epochs * len(loaders["train"].dataset) / BATCH)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.0)
    warmup = round(WARMUP * num_steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / max(warmup, 1))
            * 0.5
            * (1 + math.cos(math.pi * max(0, step - warmup) / max(num_steps - warmup, 1)))
        ),
    )

    def features(images: Any) -> Any:
        with torch.no_grad():
            return model.forward_head(model.forward_features(images), pre_logits=True)

    accuracies = []
    for _ in range(args.epochs):
        for images, labels in loaders["train"]:
            loss = torch.nn.functional.cross_entropy(head(features(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            found = [head(features(images)).argmax(1) == labels for images, labels in loaders["val"]]
        accuracies.append(float(torch.cat(found).float().mean()))
    result = {
        "accuracy": accuracies[-1],
        "best": max(accuracies),
        "seconds": time.perf_counter() - BEGAN,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    sys.stdout.write(f"{json.dumps(result)}\n")


def _loader(args: argparse.Namespace, classes: list[str], split: str) -> Any:
    import torch

    is_train = split == "train"
    return torch.utils.data.DataLoader(
        _Images(args.data / split, classes),
        batch_size=BATCH if is_train else EVAL_BATCH,
        shuffle=is_train,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )


class _Images:
    """Images of a folder with a folder a class, as timm reads them in evaluation."""

    def __init__(self, folder: Path, classes: list[str]) -> None:
        self.examples = [
            (path, label) for label, name in enumerate(classes) for path in sorted((folder / name).iterdir())
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        import numpy as np
        import torch
        from PIL import Image

        path, label = self.examples[index]
        image = Image.open(path).convert("RGB")
        scale = 248 / min(image.size)
        size = tuple(int(side * scale) for side in image.size)
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
        return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).contiguous(), label


if __name__ == "__main__":
    main()
