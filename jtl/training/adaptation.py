"""How a model does on another domain: measures without labels, and the step that each would have chosen.

An evaluation's numbers of the target are in the history under `PREFIX`. Those of `CRITERIA` need no labels
and may choose a checkpoint; those that do need them are the oracle's, and are only reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jtl import metrics
from jtl.report.tables import aligned
from jtl.tasks import Task, TaskKind
from jtl.training import progress

PREFIX = metrics.TARGET_PREFIX
IM, SND, ENTROPY = (f"{PREFIX}{name}" for name in ("im", "snd", "entropy"))
CRITERIA = (IM, SND, ENTROPY)
MIN_NEIGHBOURS, MAX_NEIGHBOURS = 2, 2000
SND_TEMPERATURE = 0.05


def measure(
    task: Task, logits: np.ndarray, labels: np.ndarray | None, *, has_classes: bool
) -> dict[str, float]:
    """Return what is known of the target's logits [examples, outputs], by name with `PREFIX`.

    The criteria where the task `has_classes`, and the task's own metrics where there are labels.
    """
    found: dict[str, float] = {}
    if has_classes:
        found |= criteria(np.asarray(task.predictions(jnp.asarray(logits)), np.float64))
    if labels is not None:
        batch = {"label": jnp.asarray(labels), "mask": jnp.ones(len(labels), bool)}
        sums = task.metrics(jnp.asarray(logits), batch)
        scalars = task.summarize(metrics.merge(None, sums)).scalars
        found |= {f"{PREFIX}{name}": value for name, value in scalars.items()}
    return found


def criteria(probabilities: Float[np.ndarray, "examples classes"]) -> dict[str, float]:
    """Return the criteria that need no labels, from class probabilities.

    Mean entropy in nats (less is better); IM, the entropy of the mean minus the mean entropy, the mutual
    information of example and class (more is better; Shi and Sha 2012, Liang et al. 2020); SND (see
    `neighbourhood_density`; more is better).
    """
    mean = float(np.mean(entropy(probabilities)))
    marginal = float(entropy(np.mean(probabilities, axis=0, keepdims=True))[0])
    return {ENTROPY: mean, IM: marginal - mean, SND: neighbourhood_density(probabilities)}


def entropy(probabilities: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " rows"]:
    """Return the entropy of each row in nats.

    >>> entropy(np.array([[0.9, 0.1], [0.5, 0.5]])).round(3)
    array([0.325, 0.693])
    """
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return -np.sum(probabilities * logs, axis=1)


def neighbourhood_density(probabilities: Float[np.ndarray, "examples classes"]) -> float:
    """Return soft neighbourhood density: how many near neighbours an example has.

    Saito et al. 2021, eq. 1 to 4, on probabilities: the mean entropy of a softmax over the cosine
    similarities to all others, at temperature 0.05. Of more than `MAX_NEIGHBOURS` examples an even choice is
    taken: all pairs of it are compared. nan of less than two.
    """
    if len(probabilities) < MIN_NEIGHBOURS:
        return float("nan")
    stride = -(-len(probabilities) // MAX_NEIGHBOURS)
    chosen = probabilities[::stride]
    directions = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    similarities = directions @ directions.T / SND_TEMPERATURE
    np.fill_diagonal(similarities, -np.inf)
    shares = np.exp(similarities - np.max(similarities, axis=1, keepdims=True))
    return float(np.mean(entropy(shares / np.sum(shares, axis=1, keepdims=True))))


def scalars(entry: Mapping[str, float]) -> dict[str, float]:
    """Return an evaluation's numbers by the names people read: `val/accuracy`, `target/im`.

    >>> scalars({"step": 5, "loss": 0.5, "target_im": 1.0})
    {'val/loss': 0.5, 'target/im': 1.0}
    """
    return {
        f"target/{name.removeprefix(PREFIX)}" if name.startswith(PREFIX) else f"val/{name}": value
        for name, value in entry.items()
        if name != "step"
    }


def outcome(history: Sequence[Mapping[str, Any]], monitor: str, kind: TaskKind) -> dict[str, dict[str, Any]]:
    """Return the target's numbers at the last step, at the one `monitor` chose, and at the oracle's.

    `oracle` is the best by the target's own labels, where it has them: no run can choose it. `criteria` are
    the steps each criterion, and the validation metric of the task's `kind`, would have chosen. {} without an
    evaluation.
    """
    if not history:
        return {}
    found: dict[str, dict[str, Any]] = {"last": {"by": "step", **_numbers(history[-1])}}
    names = {"selected": monitor, "oracle": f"{PREFIX}{kind.monitor}"}
    found |= {column: _chosen(history, name, kind) for column, name in names.items() if name in history[-1]}
    known = [name for name in (*CRITERIA, kind.monitor) if name in history[-1]]
    return {**found, "criteria": {name: _chosen(history, name, kind) for name in known}}


def table(found: Mapping[str, Mapping[str, Any]], width: int | None = None) -> str:
    """Return what `outcome` gave, a column each for the last, the selected and the oracle's step.

    >>> print(table({"last": {"by": "step", "step": 9, "im": 1.0},
    ...              "selected": {"by": "target_im", "step": 6, "im": 1.5}}))
    target    last  selected by target_im
    step         9                      6
    im      1.0000                 1.5000
    """
    columns = {name: found[name] for name in ("last", "selected", "oracle") if name in found}
    header = ["target", *(name if name == "last" else f"{name} by {columns[name]['by']}" for name in columns)]
    names = [name for name in columns["last"] if name not in ("by", "step")]
    rows = [["step", *(f"{each['step']:,}" for each in columns.values())]]
    rows += [[name, *(f"{each[name]:.4f}" for each in columns.values())] for name in names]
    return aligned([header, *rows], left=(0,), width=width)


def _chosen(history: Sequence[Mapping[str, Any]], metric: str, kind: TaskKind) -> dict[str, Any]:
    entry = progress.best(history, metric, is_maximized=kind.is_maximized(metric))
    assert entry is not None, "a history that is not empty has a best entry"
    return {"by": metric, **_numbers(entry)}


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    own = {name.removeprefix(PREFIX): value for name, value in entry.items() if name.startswith(PREFIX)}
    return {"step": entry["step"], **own}
