"""The settings of the training loop: the section `train`."""

from dataclasses import dataclass

from jtl.data.sampling import UNIFORM, check_name
from jtl.errors import UserError


@dataclass(frozen=True)
class Train:
    """Settings of the loop.

    Either `epochs` or `steps` (above 0) gives the length. `batch_size` is global, over all devices.
    Evaluation runs every `eval_every` steps (0: once an epoch), on `eval_batch_size` examples at a time
    (0: as in training), and a checkpoint is saved with it and also every `checkpoint_every` steps (0:
    only with evaluation). `monitor` names the metric that picks the best step and drives early stopping
    ("": the task's own); training stops after `patience` evaluations without a gain above `min_gain` (0:
    never). `sampling` draws training examples "uniform" (each once an epoch), "class_balanced" (all
    classes in turn) or "square_root" (in the ratio of the roots of their numbers). `batch_stats` says
    what frozen normalisation layers do with their statistics: "frozen" or "adapt". `log_every` is in
    steps.
    """

    epochs: float = 10.0
    steps: int = 0
    batch_size: int = 32
    eval_batch_size: int = 0
    seed: int = 0
    eval_every: int = 0
    checkpoint_every: int = 0
    monitor: str = ""
    patience: int = 0
    min_gain: float = 0.0
    sampling: str = UNIFORM
    batch_stats: str = "frozen"
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"train.seed is {self.seed}; expected 0 <= value < 2**31")
        for name in ("steps", "eval_batch_size", "eval_every", "checkpoint_every", "patience", "min_gain"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name} is {getattr(self, name)}; expected 0 or more")
        if not self.steps and self.epochs <= 0:
            raise UserError(
                f"train.epochs is {self.epochs}; expected a positive number, or train.steps above 0"
            )
        check_name(self.sampling)
        if self.batch_stats not in ("frozen", "adapt"):
            raise UserError(f"train.batch_stats is {self.batch_stats!r}; expected 'frozen' or 'adapt'")
