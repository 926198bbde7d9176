"""One recipe for each way to transfer.

    python -m jtl.main --config configs/transfer.py:lora
    python -m jtl.main --config configs/transfer.py:lora,WEIGHTS --config.data.path=/path/to/folder

The argument is a strategy, and any weights (a name, a file, a run folder) behind a comma; without them the
embedded `vit_mini` on scikit-learn's digits, 10 labels a class. What adapts to another domain needs its
examples: --config.data.target=/path/to/them; what learns from others without labels these:
--config.data.unlabelled=/path/to/them; distillation a teacher: --config.strategy.teacher=RUN. The recipes are
those of `jtl train DATA --strategy NAME` (jtl/training/recipe.py).
"""

from ml_collections import ConfigDict

from jtl.training import recipe


def get_config(argument: str = "full") -> ConfigDict:
    """Return the recipe; `argument` is a strategy, and weights behind a comma."""
    strategy, _, weights = argument.partition(",")
    digits = {"name": "digits", "train_per_class": 10}
    return ConfigDict(
        {
            **recipe.values(strategy, weights or "embedded://vit_mini"),
            "data": {"path": ""} if weights else digits,
            "augment": {} if weights else {"crop_scale": (0.7, 1.0), "flip": 0.0},
        }
    )
