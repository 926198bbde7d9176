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

As there, each method by its own script: Nesterov SGD, a rate that falls with (1 + decay step)^-0.75 and is a
tenth below the head, weight decay, images a domain, bottleneck and steps. Adversaries are as strong as
tllib's, whose loss is the mean of two domains where ours is their sum.

Other than there:
  - bottleneck and discriminator have no BatchNorm; mdd's two heads share no bottleneck: each has one
    hidden layer without dropout, there the bottleneck and one more;
  - what is adapted are the 2048 features before the bottleneck, not those after it;
  - cdan there sees all 256 x 31 products. Here 2048 x 31 are more than cdan.MAX_JOINT, hence a random
    projection of them;
  - dan there takes the linear-time estimate, ours all pairs. Its kernels, exp(-d / (2 2^k mean)) for k of -3
    to 1, are our five of powers -2 to 2, and added up where ours are averaged: hence the weight 5. (Its mean
    counts each example's distance to itself, 0, too: 1/64 less.)
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

BENCHMARKS = ("office31", "officehome")
ADVERSARY = {"max_lambda": 0.5, "hidden_widths": (1024, 1024), "multiplier": 5.0}
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "dan": {"layers": ("features",), "weight": 5.0},
    "dann": ADVERSARY,
    "cdan": {**ADVERSARY, "has_entropy_weights": False},
    "mdd": {"max_lambda": 0.1, "margin": 4.0, "multiplier": 10.0},
    "mcc": {"temperature": 2.5},
}
SCHEDULED = ("dann", "cdan", "mdd")
WITH_SECOND_HEAD = ("mdd",)
# The steps over which lambda rises, whatever the length of the run.
RISE_STEPS = 1000


class Script(NamedTuple):
    """What a method's script sets, `rate` that of the head; pairs are Office-31 and Office-Home."""

    rate: float
    decay: float
    weight_decay: float
    batch_size: int
    bottleneck: tuple[tuple[int, ...], tuple[int, ...]]
    num_epochs: tuple[int, int]
    epoch_steps: tuple[int, int]


SCRIPTS = {
    "full": Script(0.001, 0.0003, 5e-4, 32, ((), ()), (5, 5), (500, 500)),
    "dan": Script(0.003, 0.0003, 5e-4, 32, ((256,), (256,)), (20, 20), (500, 500)),
    "dann": Script(0.01, 0.001, 1e-3, 32, ((256,), (256,)), (20, 30), (1000, 1000)),
    "cdan": Script(0.01, 0.001, 1e-3, 32, ((256,), (256,)), (20, 30), (1000, 1000)),
    "mdd": Script(0.004, 0.0002, 5e-4, 32, ((1024,), (2048,)), (20, 30), (1000, 1000)),
    "mcc": Script(0.005, 0.001, 1e-3, 36, ((1024,), (2048,)), (20, 30), (500, 1000)),
}


def get_config(argument: str = "office31,dann") -> ConfigDict:
    """Return the recipe; `argument` is a benchmark and a method."""
    benchmark, _, method = argument.partition(",")
    if benchmark not in BENCHMARKS or method not in METHODS:
        raise ValueError(
            f"{argument!r} is not in configs/da.py; expected one of {', '.join(BENCHMARKS)}, a comma, and "
            f"one of {', '.join(METHODS)}"
        )
    script, place = SCRIPTS[method], BENCHMARKS.index(benchmark)
    epoch_steps = script.epoch_steps[place]
    steps = script.num_epochs[place] * epoch_steps
    # Both rise and fall with the step, not with the part of the run.
    scheduled = {"gamma": steps / RISE_STEPS} if method in SCHEDULED else {}
    second = {"hidden_widths": script.bottleneck[place]} if method in WITH_SECOND_HEAD else {}
    return ConfigDict(
        {
            "model": {
                "name": "resnet",
                "size": "50",
                "weights": "hf://timm/resnet50.tv_in1k",
                "head_widths": script.bottleneck[place],
                "head_activation": "relu",
            },
            "data": {"path": "", "target": "", "val_fraction": 0.0},
            "strategy": {"name": method, **METHODS[method], **scheduled, **second},
            "augment": {"crop_scale": (0.08, 1.0)},
            "optim": {
                "name": "nesterov",
                "learning_rate": script.rate / 10,
                "head_multiplier": 10.0,
                "weight_decay": script.weight_decay,
                "decay_on": "all",
                "schedule": "inverse",
                "inverse_scale": script.decay * steps,
                "warmup": 0.0,
                "clip_norm": 0.0,
            },
            "train": {
                "steps": steps,
                "batch_size": script.batch_size,
                "eval_every": epoch_steps,
                "eval_batch_size": 64,
            },
        }
    )
