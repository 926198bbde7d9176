"""One recipe for each way to transfer: settings that suit it, as plain values a configuration is read from.

The rates are those of AdamW at a batch of 32: few new parameters take a higher one than pretrained layers.
"""

from typing import Any

from jtl.errors import UserError, nearest

RATE, NEW_RATE = 5e-4, 5e-3
# Where no layer below the head trains, none is slower.
ALIKE = {"layer_decay": 1.0}
OPTIM: dict[str, dict[str, Any]] = {
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
    "proto_net": {},
    "maml": {},
    "anil": {},
    "reptile": {},
    "pseudo_label": {},
    # What is evaluated and written is an average, as in the papers; the mean teacher learns from it.
    "fix_match": {"ema": 0.999},
    "flex_match": {"ema": 0.999},
    "free_match": {"ema": 0.999},
    "mean_teacher": {"ema": 0.999},
}
MODEL: dict[str, dict[str, Any]] = {"vpt": {"num_prompts": 10}}
STRATEGY: dict[str, dict[str, Any]] = {"partial": {"rules": (("^head/", 1.0), (".", 0.1))}}
# Episodes of 4 classes, each with 3 labelled examples and 5 to tell; tasks of 2 classes, so that any set has
# enough, each with 1 labelled example and 3 to tell, 4 tasks a batch.
TASKS = {"sampling": "episodic:4x2"}
TRAIN: dict[str, dict[str, Any]] = {
    "proto_net": {"sampling": "episodic:8"},
    **dict.fromkeys(("maml", "anil", "reptile"), TASKS),
}
EPOCHS = 15.0


def values(strategy: str, weights: str, epochs: float = EPOCHS) -> dict[str, Any]:
    """Return the recipe of a strategy for weights; the data's section is empty.

    Raises:
        UserError: there is no recipe for the strategy.
    """
    if strategy not in OPTIM:
        raise UserError(
            f"there is no recipe for strategy {strategy!r}; nearest: {nearest(strategy, OPTIM)}; "
            f"expected one of {', '.join(OPTIM)}"
        )
    return {
        "model": {"name": "auto", "weights": weights, **MODEL.get(strategy, {})},
        "data": {},
        "strategy": {"name": strategy, **STRATEGY.get(strategy, {})},
        "task": {"label_smoothing": 0.1},
        "optim": {"learning_rate": RATE, "weight_decay": 0.05, "layer_decay": 0.75, **OPTIM[strategy]},
        "train": {"epochs": epochs, "batch_size": 32, **TRAIN.get(strategy, {})},
    }
