"""Fine-tune a Vision Transformer.

    python -m jtl.main --config configs/vit_ft.py
    python -m jtl.main --config configs/vit_ft.py:ti16 --config.data.path=/path/to/folder

Without an argument: the embedded `vit_mini` (Fashion-MNIST) on scikit-learn's digits with 10 labels a class,
next to the same model from random weights. With a size: its public AugReg weights (ImageNet-21k, then
ImageNet-1k) and a recipe for small folders of images: every layer trains, lower layers slower.
"""

from ml_collections import ConfigDict

WEIGHTS = {
    "ti16": "hf://timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "s16": "hf://timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "s32": "hf://timm/vit_small_patch32_224.augreg_in21k_ft_in1k",
    "b16": "hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    "b32": "hf://timm/vit_base_patch32_224.augreg_in21k_ft_in1k",
    "l16": "hf://timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
}


def get_config(argument: str = "") -> ConfigDict:
    """Return the recipe; `argument` is a size of the model, "" the embedded example."""
    return _folder(argument) if argument else _embedded()


def _folder(size: str) -> ConfigDict:
    if size not in WEIGHTS:
        raise ValueError(f"size {size!r} is not in configs/vit_ft.py; expected one of {', '.join(WEIGHTS)}")
    return ConfigDict(
        {
            "model": {"name": "vit", "size": size, "weights": WEIGHTS[size], "drop_path": 0.1},
            "data": {"path": ""},
            "task": {"label_smoothing": 0.1},
            "optim": {
                "learning_rate": 5e-4,
                "weight_decay": 0.05,
                "layer_decay": 0.75,
            },
            "train": {"epochs": 15.0, "batch_size": 32},
        }
    )


def _embedded() -> ConfigDict:
    return ConfigDict(
        {
            "model": {"name": "vit", "size": "mini", "weights": "embedded://vit_mini"},
            "data": {"name": "digits", "train_per_class": 10},
            "augment": {"crop_scale": (0.7, 1.0), "flip": 0.0},
            "optim": {"learning_rate": 1e-3, "weight_decay": 0.05, "layer_decay": 0.9},
            "train": {"steps": 150, "batch_size": 32, "eval_every": 50, "eval_batch_size": 128},
            "baseline": True,
        }
    )
