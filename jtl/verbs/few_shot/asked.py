"""What `jtl few-shot` is asked: which episodes are drawn, and for how long what is fine-tuned trains."""

from typing import NamedTuple

WAYS, SHOTS, QUERIES, EPISODES, STEPS = 5, "1,5", 15, 600, 20


class Episodes(NamedTuple):
    """Which episodes are drawn: so many, of so many classes, once for each number of shots, by a seed.

    What is fine-tuned makes so many `steps`.
    """

    ways: int = WAYS
    shots: tuple[int, ...] = (1, 5)
    queries: int = QUERIES
    num_episodes: int = EPISODES
    seed: int = 0
    steps: int = STEPS
