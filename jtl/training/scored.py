"""From an evaluation's kept logits to all the numbers that need every example (see `report.scores`)."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jtl.metrics import Summary
from jtl.report import scores
from jtl.report.bootstrap import Settings
from jtl.report.operating import Wanted
from jtl.report.scores import Limits, Scored, Scores
from jtl.tasks import TASKS, LabelStats, Task


def examples(found: Summary, task: Task, task_config: Any, stats: LabelStats) -> Scored | None:
    """Return every example of an evaluation, None where its logits were not kept."""
    if found.logits is None or found.labels is None:
        return None
    predictions = np.asarray(task.predictions(jnp.asarray(found.logits)))
    names = stats.label_names
    if not names:
        names = tuple(f"target {place}" for place in range(predictions.shape[1]))
    threshold = getattr(task_config, "threshold", 0.5)
    return Scored(found.logits, predictions, np.asarray(found.labels), names, threshold)


def limits_of(
    split: str, chosen_on: dict[str, Scored], kind: str, wanted: Wanted | None = None
) -> Limits | None:
    """Return the operating points of a split: chosen on validation where it is there, else on itself.

    Without a wish, only labels of which there may be several have any: those of the best F1.
    """
    if kind not in scores.POSITIVES or (wanted is None and kind not in BY_F1):
        return None
    source = "val" if "val" in chosen_on else split
    return scores.chosen(kind, chosen_on[source], source, wanted)


def kind_of(task_name: str) -> str:
    """Return the kind of labels that a task reads."""
    return TASKS[task_name].label_kind


def measured(scored: Scored, kind: str, settings: Settings, limits: Limits | None = None) -> Scores:
    """Return the numbers of every example."""
    return scores.of(kind, scored, settings, limits=limits)


# Kinds of labels whose thresholds are the task's to choose.
BY_F1 = ("multilabel",)
