"""The slices that a batch is cut into, as far as a strategy hangs on how many examples one has."""

from jtl.errors import UserError
from jtl.training.config import Config
from jtl.training.step import Parts


def check(config: Config, parts: Parts) -> None:
    """Check that a slice has as many examples as the strategy compares with each other, and whole tasks.

    Raises:
        UserError: it has fewer, or parts of tasks.
    """
    _check_tasks(config, parts)
    compares = parts.strategy.compares
    size, num_slices, unit = config.train.batch_size, config.optim.accumulate, parts.input.unit
    if compares is None or size // num_slices >= compares.least:
        return
    ways = ["raise train.batch_size", *(["lower optim.accumulate"] if num_slices > 1 else []), compares.cure]
    raise UserError(
        f"strategy {config.strategy.name!r} compares {compares.least} or more {unit} with each other, and a "
        f"slice has {size // num_slices} (train.batch_size {size} / optim.accumulate {num_slices}): "
        f"{', or '.join(way for way in ways if way)}"
    )


def _check_tasks(config: Config, parts: Parts) -> None:
    size, task_size, name = config.train.batch_size, parts.strategy.task_size, config.strategy.name
    if not task_size:
        return
    if config.optim.accumulate > 1:
        raise UserError(
            f"optim.accumulate is {config.optim.accumulate}, and strategy {name!r} reads whole tasks, one "
            f"after another as it is: set it to 1"
        )
    if size % task_size:
        raise UserError(
            f"train.batch_size is {size}, and a task of strategy {name!r} has {task_size} "
            f"{parts.input.unit} (train.sampling {config.train.sampling!r}): expected a multiple of "
            f"{task_size}, such as {max(1, round(size / task_size)) * task_size}"
        )
