"""A run rehearsed: all of it is built and checked as for training, and nothing of it is kept.

For runs that come hours later: what cannot be is found before the first of them begins.
"""

from collections.abc import Mapping

import numpy as np

from jtl.data import Source
from jtl.data.contract import read
from jtl.training import build, sharding, slices, streams
from jtl.training.build import Target
from jtl.training.config import Config
from jtl.training.step import Parts
from jtl.training.views import augment_of


def check(
    settings: Config, splits: dict[str, Source], target: Target | None, unlabelled: Source | None = None
) -> None:
    """Build what a run of these settings on opened data is made of; its values are drawn and dropped.

    Raises:
        UserError: it cannot be.
    """
    build.check_batch(settings, sharding.num_shards(sharding.mesh(settings.sharding)))
    stats = build.label_stats(settings, splits["train"])
    steps = build.num_steps(settings, len(splits["train"]))
    built = build.build(settings, stats, steps, num_unlabelled=streams.num_examples(unlabelled))
    streams.check(settings, built.parts, streams.named(target, unlabelled))
    slices.check(settings, built.parts)


def first_examples(parts: Parts, sources: Mapping[str, Source], splits: Mapping[str, Source]) -> None:
    """Take an example of each stream and split through its transform, so that what cannot be is known now.

    Raises:
        UserError: pre-processing, augmentation and examples do not fit together.
    """
    pairs = [(each, augment_of(parts, name)) for name, each in sources.items()]
    pairs += [(each, None) for each in splits.values()]
    for source, augment in pairs:
        transform = parts.input.transform(parts.preprocess, augment)
        read(source, 0, transform, np.random.default_rng(0))
