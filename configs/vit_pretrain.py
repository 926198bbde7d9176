"""Pretrain `vit_mini`, the embedded model, on Fashion-MNIST (MIT licence) from random weights.

    python -m jtl.main --config configs/vit_pretrain.py --config.data.path=/path/to/fashion_mnist.npz

The file has x_train, y_train, x_test and y_test. The same recipe pretrains any size on any labelled set.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict(
        {
            "model": {"name": "vit", "size": "mini", "weights": "none"},
            "data": {"name": "arrays", "path": "", "val_fraction": 0.05},
            "task": {"label_smoothing": 0.1},
            "augment": {"crop_scale": (0.5, 1.0), "flip": 0.5, "erase_probability": 0.25},
            "optim": {"learning_rate": 2e-3, "weight_decay": 0.05, "ema": 0.998},
            "train": {"epochs": 10.0, "batch_size": 128, "eval_batch_size": 256},
        }
    )
