"""Learn from grey pictures, by episodes, to tell new classes by a few examples: Conv-4 from random weights.

    python -m jtl.main --config configs/few_shot.py:proto_net --config.data.path=/path/to/omniglot/train
    jtl few-shot /path/to/omniglot/test --weights runs/…

The argument is proto_net, maml, anil or reptile. Every picture also stands turned by quarters, as other
classes (Santoro et al. 2016). What it comes to on Omniglot has not been measured to the end.
"""

from ml_collections import ConfigDict

TRAIN = {
    "proto_net": {"sampling": "episodic:5x20", "batch_size": 100, "steps": 500},
    "maml": {"sampling": "episodic:5x5", "batch_size": 50, "steps": 1000},
    "anil": {"sampling": "episodic:5x5", "batch_size": 100, "steps": 1200},
    "reptile": {"sampling": "episodic:5x5", "batch_size": 50, "steps": 1000},
}
STRATEGY = {
    "proto_net": {"shots": 1},
    "maml": {"shots": 1, "inner_steps": 2, "inner_rate": 0.4},
    "anil": {"shots": 1, "inner_steps": 5, "inner_rate": 0.4},
    "reptile": {"shots": 1, "inner_steps": 5, "inner_rate": 0.1},
}


def get_config(strategy: str = "proto_net") -> ConfigDict:
    """Return the recipe of a strategy that learns by episodes."""
    return ConfigDict(
        {
            "model": {"name": "conv_net", "weights": "none"},
            "data": {"path": "", "rotated_classes": True, "val_fraction": 0.1},
            # One value of each: grey.
            "preprocess": {"mean": (0.5,), "std": (0.5,)},
            "augment": {"crop_scale": (0.8, 1.0), "crop_ratio": (0.9, 1.1), "flip": 0.0},
            "strategy": {"name": strategy, **STRATEGY[strategy]},
            "optim": {"name": "adam", "learning_rate": 1e-3},
            "train": {"eval_every": 250, "eval_batch_size": 200, **TRAIN[strategy]},
        }
    )
