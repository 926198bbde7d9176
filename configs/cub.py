"""Fine-tune on few labels: the published protocol of CUB-200 (200 kinds of birds, ResNet-50).

    python -m jtl.main --config configs/cub.py --config.data.path=CUB200
    python -m jtl.main --config configs/cub.py:bi_tuning --config.data.path=CUB200 \\
        --config.data.train_fraction=0.3

The argument is a strategy. The path is a folder train/ and a folder val/ or test/, with a folder a class.
Published top-1 at 15, 30, 50 and 100 % of the labels, one seed, settings chosen on the evaluated images
(tllib, examples/task_adaptation/image_classification/README.md):

    strategy     15 %   30 %   50 %   100 %
    full         51.2   64.6   74.6    81.8
    bss          53.4   66.7   76.0    82.0
    delta        54.8   67.3   76.3    82.3
    co_tuning    57.6   70.1   77.3    82.5
    bi_tuning    55.8   69.3   77.2    83.1

As there: Nesterov SGD, rate 0.01 for the head and a tenth of it below, 48 images, 20 epochs of 500 steps, a
tenth of the rate from epoch 12 on, the strategies' weights, and no weight decay beside a penalty that takes
its place. Other than there:
  - bi_tuning contrasts there with a queue of 40 keys a class, here with the batch, where most of 200 classes
    have no second image;
  - delta there is 0.01 times half of the squares of each layer, weighted by channel and not normalised; ours
    is another distance, at its own default.
"""

from typing import Any

from ml_collections import ConfigDict

NUM_EPOCHS, STEPS_PER_EPOCH = 20, 500
SETTINGS: dict[str, dict[str, Any]] = {
    "co_tuning": {"weight": 2.3},
    "bi_tuning": {"classifier_weight": 1.0, "projector_weight": 1.0},
}
WITHOUT_WEIGHT_DECAY = ("delta", "l2_sp")


def get_config(argument: str = "full") -> ConfigDict:
    """Return the recipe; `argument` is a strategy."""
    return ConfigDict(
        {
            "model": {"name": "resnet", "size": "50", "weights": "hf://timm/resnet50.tv_in1k"},
            "data": {"path": ""},
            "strategy": {"name": argument, **SETTINGS.get(argument, {})},
            "augment": {"crop_scale": (0.08, 1.0)},
            "optim": {
                "name": "nesterov",
                "learning_rate": 1e-3,
                "head_multiplier": 10.0,
                "weight_decay": 0.0 if argument in WITHOUT_WEIGHT_DECAY else 5e-4,
                "decay_on": "all",
                "schedule": "step",
                "decay_at": (12 / NUM_EPOCHS,),
                "decay_factor": 0.1,
                "warmup": 0.0,
                "clip_norm": 0.0,
            },
            "train": {
                "steps": NUM_EPOCHS * STEPS_PER_EPOCH,
                "batch_size": 48,
                "eval_every": STEPS_PER_EPOCH,
            },
        }
    )
