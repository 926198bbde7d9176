"""The contract between a task and the rest: what the labels look like, the loss, and the metrics as sums."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from jtl.metrics import Summary


class LabelStats(NamedTuple):
    """What a task needs to know of the training labels; saved in the run folder for evaluation.

    `counts` are training examples a class (multiclass, multilabel); `mean` and `std` one per target
    (regression).
    """

    label_names: tuple[str, ...]
    num_examples: int
    counts: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelStats":
        """Rebuild from the JSON form (`_asdict`)."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


class Task(NamedTuple):
    """A built task.

    `targets(labels)` → float32 [batch, head_size], the form mixup can blend. `loss(logits, targets)` →
    [batch], in nats or squared units, never averaged over examples. `metrics(logits, labels, mask)` → sums,
    merged by addition; `summarize(sums)` → the final numbers. `predictions(logits)` → what people read of
    them: probabilities, or values in the labels' unit. `averaged(logits [members, batch, head_size])` →
    logits of which the predictions are the mean of the members' predictions. `monitor` is the metric that
    picks the best step.
    """

    head_size: int
    targets: Callable[[Array], Array]
    loss: Callable[[Array, Array], Array]
    metrics: Callable[[Array, Array, Array], dict[str, Array]]
    summarize: Callable[[Mapping[str, np.ndarray]], Summary]
    predictions: Callable[[Array], Array]
    averaged: Callable[[Array], Array]
    monitor: str


class TaskKind(NamedTuple):
    """One kind of task: its settings, the kind of labels it reads, their statistics, and how to build it."""

    Config: type
    label_kind: str
    stats: Callable[[np.ndarray, tuple[str, ...]], LabelStats]
    build: Callable[[Any, LabelStats], Task]
