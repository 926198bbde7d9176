"""A run rehearsed: all of it is built and checked as for training, and nothing of it is kept.

For runs that come hours later: what cannot be is found before the first of them begins.
"""

from jtl.data import Source
from jtl.strategies.contract import TARGET, TRAIN
from jtl.training import build, sharding
from jtl.training.build import Target
from jtl.training.config import Config


def check(settings: Config, splits: dict[str, Source], target: Target | None) -> None:
    """Build what a run of these settings on opened data is made of; its values are drawn and dropped.

    Raises:
        UserError: it cannot be.
    """
    build.check_batch(settings, sharding.mesh(settings.sharding).size)
    stats = build.label_stats(settings, splits["train"])
    built = build.build(settings, stats, build.num_steps(settings, len(splits["train"])))
    streams = {TRAIN: splits["train"]} | ({} if target is None else {TARGET: target.stream})
    build.check_streams(settings, built.parts, streams)
