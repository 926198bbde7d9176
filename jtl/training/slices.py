"""The slices that a batch is cut into, as far as a strategy hangs on how many examples one has."""

from jtl.errors import UserError
from jtl.training.config import Config
from jtl.training.step import Parts


def check(config: Config, parts: Parts) -> None:
    """Check that a slice has as many examples as the strategy compares with each other.

    Raises:
        UserError: it has fewer.
    """
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
