"""Adapt to another domain without its labels: the published protocols of Office-31 and Office-Home.

    python -m jtl.main --config configs/da.py:office31,dann --config.data.path=amazon \\
        --config.data.target=webcam

The argument is BENCHMARK,METHOD: office31 or officehome, and a method of the table. Both paths are folders
with a folder a class (31: amazon, webcam, dslr; 65: Art, Clipart, Product, Real_World). The last, the
label-free selected and the oracle's step are reported apart; the published numbers are the oracle's: of the
best step by target accuracy, mean over all transfers, ResNet-50 (tllib,
examples/domain_adaptation/image_classification/README.md):

    method     Office-31   A to W   Office-Home
    full            79.5     75.8          58.4     (source only)
    dan             83.7     84.2          61.4
    dann            86.1     91.4          65.2
    cdan            87.7     93.8          68.8
    mdd             89.6     95.6          69.7
    mcc             89.6     94.1          72.4

As there: Nesterov SGD, 32 + 32 images, rate 0.01 (1 + 0.001 step)^-0.75 and a tenth of it below the head. The
strengths of the adversaries are tllib's, whose loss is the mean of two domains where ours is their sum. Other
than there: the head's bottleneck of 256 has no BatchNorm, and what is adapted are the features before it.
"""

from typing import Any

from ml_collections import ConfigDict

STEPS = {"office31": 20_000, "officehome": 30_000}
STEPS_PER_EPOCH = 1000
ADVERSARY = {"max_lambda": 0.5, "hidden_widths": (1024, 1024), "multiplier": 5.0}
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "dan": {"layers": ("features",), "bandwidth_powers": (-3, -2, -1, 0, 1)},
    "dann": ADVERSARY,
    "cdan": {**ADVERSARY, "has_entropy_weights": False},
    "mdd": {"max_lambda": 0.1, "margin": 4.0, "hidden_widths": (1024,), "multiplier": 10.0},
    "mcc": {"temperature": 2.5},
}
SCHEDULED = ("dann", "cdan", "mdd")


def get_config(argument: str = "office31,dann") -> ConfigDict:
    """Return the recipe; `argument` is a benchmark and a method."""
    benchmark, _, method = argument.partition(",")
    if benchmark not in STEPS or method not in METHODS:
        raise ValueError(
            f"{argument!r} is not in configs/da.py; expected one of {', '.join(STEPS)}, a comma, and one of "
            f"{', '.join(METHODS)}"
        )
    steps = STEPS[benchmark]
    # Both rise and fall with the step, not with the part of the run.
    passed = steps / STEPS_PER_EPOCH
    scheduled = {"gamma": passed} if method in SCHEDULED else {}
    return ConfigDict(
        {
            "model": {
                "name": "resnet",
                "size": "50",
                "weights": "hf://timm/resnet50.tv_in1k",
                "head_widths": (256,),
                "head_activation": "relu",
            },
            "data": {"name": "image_folder", "path": "", "target": "", "val_fraction": 0.0},
            "strategy": {"name": method, **METHODS[method], **scheduled},
            "augment": {"crop_scale": (0.08, 1.0)},
            "optim": {
                "name": "nesterov",
                "learning_rate": 1e-3,
                "head_multiplier": 10.0,
                "weight_decay": 1e-3,
                "decay_on": "all",
                "schedule": "inverse",
                "inverse_scale": passed,
                "warmup": 0.0,
                "clip_norm": 0.0,
            },
            "train": {
                "steps": steps,
                "batch_size": 32,
                "eval_every": STEPS_PER_EPOCH,
                "eval_batch_size": 64,
            },
        }
    )
