"""The whole way in seconds, for a check that everything works: a tiny ViT on scikit-learn's digits.

python -m jtl.main --config configs/smoke.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict(
        {
            "model": {
                "name": "vit",
                "size": "mini",
                "weights": "none",
                "image_px": 16,
                "dim": 32,
                "depth": 2,
                "heads": 2,
                "mlp_dim": 64,
            },
            "data": {"name": "digits"},
            "augment": {"crop_scale": (0.7, 1.0), "flip": 0.0},
            "optim": {"learning_rate": 3e-3},
            "train": {
                "steps": 60,
                "batch_size": 64,
                "eval_every": 20,
                "eval_batch_size": 128,
                "log_every": 1,
            },
        }
    )
