"""Fine-tune any weights on your images or texts: family, size and pre-processing are what the weights say.

    python -m jtl.main --config configs/ft.py:WEIGHTS --config.data.path=/path/to/data

WEIGHTS is a name of `jtl weights list`, a file, a run folder, hf://org/name, https://… or gs://…; without it,
the embedded `vit_mini` on scikit-learn's digits. Every layer trains, lower layers slower; only the new head:
--config.strategy.name=probe --config.optim.learning_rate=5e-3
"""

from ml_collections import ConfigDict


def get_config(argument: str = "") -> ConfigDict:
    """Return the recipe; `argument` are the weights, "" the embedded example."""
    folder = {"path": ""}
    digits = {"name": "digits", "train_per_class": 10}
    return ConfigDict(
        {
            "model": {"name": "auto", "weights": argument or "embedded://vit_mini"},
            "data": folder if argument else digits,
            "task": {"label_smoothing": 0.1},
            "augment": {} if argument else {"crop_scale": (0.7, 1.0), "flip": 0.0},
            "optim": {"learning_rate": 5e-4, "weight_decay": 0.05, "layer_decay": 0.75},
            "train": {"epochs": 15.0, "batch_size": 32},
        }
    )
