"""What tests ask of a task, compiled: its many small operations take longer one by one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import metrics
from jtl.tasks import Task


def targets_of(task: Task, labels: Any) -> jax.Array:
    """Return the targets of labels."""
    return task.targets({"label": jnp.asarray(labels)}, jax.random.key(0))


def summary_of(task: Task, logits: Any, labels: Any, mask: Any) -> metrics.Summary:
    """Return the final numbers of one batch."""
    return task.summarize(metrics.merge(None, sums_of(task.metrics)(logits, labels, mask)))


def sums_of(measure: Callable[..., Any]) -> Callable[[Any, Any, Any], dict[str, np.ndarray]]:
    """Return a task's metrics as a function of logits, labels and mask."""

    @jax.jit
    def run(logits: Any, labels: Any, mask: Any) -> dict[str, Any]:
        return measure(logits, {"label": labels, "mask": mask})

    return run
