"""Fine-tune a ResNet.

    python -m jtl.main --config configs/resnet_ft.py
    python -m jtl.main --config configs/resnet_ft.py:50 --config.data.path=/path/to/folder

Without an argument: a ResNet-20 for 32 px, from random weights, on scikit-learn's digits. With a depth: its
public ImageNet weights and a recipe for small folders of images. The public weights of CIFAR ResNets:
--config.model.weights=/path/to/resnet20-12fca82f.th
"""

from ml_collections import ConfigDict

WEIGHTS = {
    "18": "hf://timm/resnet18.tv_in1k",
    "34": "hf://timm/resnet34.tv_in1k",
    "50": "hf://timm/resnet50.a1_in1k",
    "101": "hf://timm/resnet101.a1_in1k",
    "152": "hf://timm/resnet152.a1_in1k",
}


def get_config(argument: str = "") -> ConfigDict:
    """Return the recipe; `argument` is a depth with public weights, "" the example on digits."""
    return _folder(argument) if argument else _digits()


def _folder(depth: str) -> ConfigDict:
    if depth not in WEIGHTS:
        raise ValueError(
            f"depth {depth!r} is not in configs/resnet_ft.py; expected one of {', '.join(WEIGHTS)}"
        )
    return ConfigDict(
        {
            "model": {"name": "resnet", "size": depth, "weights": WEIGHTS[depth]},
            "data": {"path": ""},
            "task": {"label_smoothing": 0.1},
            "optim": {"learning_rate": 5e-4, "weight_decay": 0.05, "layer_decay": 0.8},
            "train": {"epochs": 15.0, "batch_size": 32, "eval_batch_size": 64},
        }
    )


def _digits() -> ConfigDict:
    return ConfigDict(
        {
            "model": {"name": "cifar_resnet", "size": "20", "weights": "none"},
            "data": {"name": "digits"},
            "augment": {"crop_scale": (0.7, 1.0), "flip": 0.0},
            "optim": {"name": "sgd", "learning_rate": 0.05, "weight_decay": 5e-4},
            "train": {"epochs": 5.0, "batch_size": 64, "eval_batch_size": 128},
        }
    )
