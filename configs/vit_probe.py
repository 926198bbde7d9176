"""Probe a Vision Transformer: the backbone stays as pretrained, a new head learns the task.

    python -m jtl.main --config configs/vit_probe.py
    python -m jtl.main --config configs/vit_probe.py:ti16 --config.data.path=/path/to/folder

The frozen layers once for each image, not at every step: --config.train.is_augmented=False, or train.views=4.
An MLP head: --config.model.head_widths="(512,)" --config.model.head_dropout=0.2
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
    if argument and argument not in WEIGHTS:
        raise ValueError(
            f"size {argument!r} is not in configs/vit_probe.py; expected one of {', '.join(WEIGHTS)}"
        )
    folder = {"path": ""}
    return ConfigDict(
        {
            "model": {
                "name": "vit",
                "size": argument or "mini",
                "weights": WEIGHTS.get(argument, "embedded://vit_mini"),
            },
            "data": folder if argument else {"name": "digits", "train_per_class": 10},
            "strategy": {"name": "probe"},
            "augment": {"crop_scale": (0.7, 1.0), "flip": 0.5 if argument else 0.0},
            "optim": {"learning_rate": 5e-3},
            "train": {"epochs": 15.0, "batch_size": 32, "eval_batch_size": 64},
        }
    )
