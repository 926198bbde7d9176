"""The settings of the training loop: the section `train`."""

from dataclasses import dataclass
from typing import Annotated

from jtl.data.sampling import UNIFORM, check_name
from jtl.errors import UserError, nearest, shown
from jtl.models import layers
from jtl.ranges import Count, CountOr0, NotNegative, Range, ReadIf, check

AUTO, ON, OFF = "auto", "on", "off"


@dataclass(frozen=True)
class Train:
    """Settings of the loop.

    Either `epochs` or `steps` (above 0) gives the length, or `minutes` (above 0): as many steps as the whole
    command has time for, with a schedule that ends with them. `batch_size` is global, over all devices.
    Evaluation runs every `eval_every` steps (0: once an epoch), on `eval_batch_size` examples at a time
    (0: as in training), and a checkpoint is saved with it and also every `checkpoint_every` steps (0:
    only with evaluation). `monitor` names the metric that picks the best step and drives early stopping
    ("": the task's own); training stops after `patience` evaluations without a gain above `min_gain` (0:
    never). `sampling` draws training examples "uniform" (each once an epoch), "class_balanced" (all classes
    in turn), "square_root" (in the ratio of the roots of their numbers) or "episodic:8" (eight of a class in
    a row, the classes in another order every round; "episodic:8x5": in episodes of five classes, none of them
    twice). They are varied as `augment` says if `is_augmented`, else read as in evaluation: anew each time,
    or with `views` (0: anew) in that many fixed ways in turn. What the frozen layers below all that trains
    make of them is computed once and kept where it can be (`cache_features` "auto"), or at every step
    ("off"); "on" refuses a run that cannot. `batch_stats` says what frozen normalisation layers do with their
    statistics: "frozen" or "adapt". `frozen_dtype` is what frozen values are kept in on the devices:
    "float32", or "auto", what a layer casts them to; the run folder has them as they were loaded. `log_every`
    is in steps. `steps_per_dispatch` steps are asked of the devices at once (0: as many as pay), where these
    need nothing of the host in between. Of steps whose loss or gradient is not finite `skip_nonfinite` are
    skipped, and the next ends the run. A step, an evaluation, a save or a wait for data ends it, too, that
    makes no progress for `hang_seconds` (0: none does) and ten times as long as it did at most before.
    `mirror` is a URL (s3://, gs://, or a folder) that has a copy of the run folder, brought up to it behind
    every checkpoint, and is gone on from where the run folder is empty or behind ("": none).
    """

    epochs: NotNegative = 10.0
    steps: CountOr0 = 0
    minutes: NotNegative = 0.0
    batch_size: Count = 32
    eval_batch_size: CountOr0 = 0
    seed: CountOr0 = 0
    eval_every: CountOr0 = 0
    checkpoint_every: CountOr0 = 0
    monitor: str = ""
    patience: CountOr0 = 0
    min_gain: Annotated[NotNegative, ReadIf("patience")] = 0.0
    sampling: str = UNIFORM
    is_augmented: bool = True
    views: Annotated[int, Range(0, 1024), ReadIf("is_augmented")] = 0
    cache_features: str = AUTO
    batch_stats: str = "frozen"
    frozen_dtype: str = layers.AUTO
    log_every: Count = 10
    steps_per_dispatch: CountOr0 = 0
    skip_nonfinite: CountOr0 = 0
    hang_seconds: NotNegative = 1800.0
    mirror: str = ""

    def __post_init__(self) -> None:
        check(self, "train")
        if not self.steps and not self.epochs:
            raise UserError(
                f"train.epochs is {self.epochs}; expected a positive number, or train.steps above 0"
            )
        if self.steps and self.minutes:
            raise UserError(
                f"train.steps is {self.steps:,} and train.minutes {self.minutes:g}; expected one of them: "
                f"set the other to 0"
            )
        check_name(self.sampling)
        layers.check_choice("train.frozen_dtype", self.frozen_dtype, (layers.AUTO, "float32"))
        if self.cache_features not in (AUTO, ON, OFF):
            raise UserError(
                f"train.cache_features is {shown(self.cache_features)}; expected one of "
                f"{nearest(self.cache_features, (AUTO, ON, OFF), 3)}"
            )
        if self.batch_stats not in ("frozen", "adapt"):
            raise UserError(f"train.batch_stats is {shown(self.batch_stats)}; expected 'frozen' or 'adapt'")
