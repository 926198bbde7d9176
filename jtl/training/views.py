"""How the examples of each stream of a batch are varied: as those of training are, or strongly."""

from typing import Any


def augment_of(parts: Any, name: str) -> Any:
    """Return the settings by which a stream's examples are varied, None where nothing is.

    `parts` has a strategy, an input kind and the settings `augment`.
    """
    stream = parts.strategy.streams.get(name)
    if parts.augment is None or stream is None or not stream.is_strong:
        return parts.augment
    return parts.input.strong(parts.augment)


def rows_of(parts: Any, name: str, batch_size: int) -> int:
    """Return how many examples a stream has in a batch of so many labelled ones."""
    stream = parts.strategy.streams.get(name)
    return batch_size * (1 if stream is None else stream.times)
