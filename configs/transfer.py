"""One recipe for each way to transfer.

    python -m jtl.main --config configs/transfer.py:lora
    python -m jtl.main --config configs/transfer.py:lora,WEIGHTS --config.data.path=/path/to/folder

The argument is a strategy, and any weights (a name, a file, a run folder) behind a comma; without them the
embedded `vit_mini` on scikit-learn's digits, 10 labels a class. What adapts to another domain needs its
examples: --config.data.target=/path/to/them; distillation a teacher: --config.strategy.teacher=RUN. The rates
are those of AdamW at a batch of 32: few new parameters take a higher one than pretrained layers.
"""

from typing import Any

from ml_collections import ConfigDict

RATE, NEW_RATE = 5e-4, 5e-3
# Where no layer below the head trains, none is slower.
ALIKE = {"layer_decay": 1.0}
RECIPES: dict[str, dict[str, Any]] = {
    "full": {},
    "probe": {"learning_rate": NEW_RATE, **ALIKE},
    "partial": {},
    "gradual": {},
    "lp_ft": {},
    "lora": {"learning_rate": NEW_RATE, **ALIKE},
    "bitfit": {"learning_rate": NEW_RATE},
    "ia3": {"learning_rate": NEW_RATE, **ALIKE},
    "vpt": {"learning_rate": NEW_RATE},
    # It takes the place of weight decay.
    "l2_sp": {"weight_decay": 0.0},
    "bss": {},
    "delta": {},
    "co_tuning": {},
    "bi_tuning": {},
    "distillation": {},
    "dan": {},
    "dann": {},
    "cdan": {},
    "mcc": {},
    "mdd": {},
}
MODEL: dict[str, dict[str, Any]] = {"vpt": {"num_prompts": 10}}
SETTINGS: dict[str, dict[str, Any]] = {"partial": {"rules": (("^head/", 1.0), (".", 0.1))}}


def get_config(argument: str = "full") -> ConfigDict:
    """Return the recipe; `argument` is a strategy, and weights behind a comma."""
    strategy, _, weights = argument.partition(",")
    if strategy not in RECIPES:
        raise ValueError(
            f"strategy {strategy!r} is not in configs/transfer.py; expected one of {', '.join(RECIPES)}"
        )
    folder = {"path": ""}
    digits = {"name": "digits", "train_per_class": 10}
    return ConfigDict(
        {
            "model": {"name": "auto", "weights": weights or "embedded://vit_mini", **MODEL.get(strategy, {})},
            "data": folder if weights else digits,
            "strategy": {"name": strategy, **SETTINGS.get(strategy, {})},
            "task": {"label_smoothing": 0.1},
            "augment": {} if weights else {"crop_scale": (0.7, 1.0), "flip": 0.0},
            "optim": {"learning_rate": RATE, "weight_decay": 0.05, "layer_decay": 0.75, **RECIPES[strategy]},
            "train": {"epochs": 15.0, "batch_size": 32},
        }
    )
