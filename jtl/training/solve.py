"""A linear head solved for in place of training it: L-BFGS on the task's own loss, in float64.

Minimised is Σ loss + strength / 2 · |kernel|², as scikit-learn's LogisticRegression and Ridge have it (their
C is 1 / strength; the bias is free): of a multiclass task multinomial logistic regression, of several labels
one of each, of numbers ridge regression.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jtl.errors import UserError
from jtl.models.head import NO_ADAPTER
from jtl.strategies.contract import Solver
from jtl.training.build import Built
from jtl.training.config import Config

MAX_ITERATIONS, TOLERANCE = 2000, 1e-6
SAID = "strategy.solver: "
LINEAR = {"kernel", "bias"}


class Solved(NamedTuple):
    """A head, the strength that was chosen, and the mean held-out loss of each that was tried."""

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    held_out: tuple[float, ...]


def planned(built: Built) -> Built:
    """Return the parts of a run whose head is solved for: one step that moves nothing, which measures it."""
    import optax

    if built.parts.strategy.solver is None:
        return built
    still = optax.chain(built.parts.optimizer, optax.scale(0.0))
    return built._replace(parts=built.parts._replace(optimizer=still, num_steps=1))


def check(settings: Config, built: Built) -> None:
    """Check that the head is linear.

    Raises:
        UserError: it is not.
    """
    model = settings.model
    is_linear = model.adapter == NO_ADAPTER and not model.head_widths and set(built.params["head"]) == LINEAR
    if built.parts.strategy.solver is not None and not is_linear:
        raise UserError(
            "strategy.solver solves for a linear head; set model.adapter='none' and model.head_widths=(), or "
            "train it with strategy.solver=''"
        )


def solved(
    features: Float[np.ndarray, "examples dim"],
    targets: Any,
    folds: np.ndarray,
    loss: Callable[[Any, Any], Any],
    num_outputs: int,
    solver: Solver,
) -> Solved:
    """Return the head of the strength with the least loss on examples held out, solved for on all.

    `targets` is a tree of [examples, …] for the task's `loss(logits, targets)` → [examples]; `folds` says in
    which fold each is held out. Strong penalties come first, and each start where the last ended.
    """
    features = np.asarray(features, np.float64)
    strengths = sorted(solver.strengths, reverse=True)
    with jax.enable_x64(True):
        if len(strengths) > 1:
            held_out = np.mean(
                [
                    _held_out(features, targets, folds == fold, loss, num_outputs, strengths)
                    for fold in range(solver.folds)
                ],
                axis=0,
            )
        else:
            held_out = np.zeros(1)
        best = int(np.argmin(held_out))
        fit = _problem(features, targets, loss, num_outputs)
        vector = None
        for strength in strengths[: best + 1]:
            vector = fit(strength, vector)
    assert vector is not None
    kernel, bias = _halves(vector, features.shape[1], num_outputs)
    return Solved(kernel, bias, strengths[best], tuple(held_out.tolist())[::-1])


def text(found: Solved, solver: Solver) -> str:
    """Return what was found in one line, for people."""
    strengths = sorted(solver.strengths)
    line = f"{SAID}the head is solved for with strength {found.strength:g}"
    if len(strengths) == 1:
        return line
    tried = ", ".join(f"{each:g}: {loss:.4f}" for each, loss in zip(strengths, found.held_out, strict=True))
    line += f", which of these has the least loss on what {solver.folds} folds hold out: {tried}"
    if found.strength in (strengths[0], strengths[-1]):
        line += "; it is the last of them: add others (strategy.strengths)"
    return line


def _held_out(
    features: np.ndarray,
    targets: Any,
    is_held: np.ndarray,
    loss: Callable[[Any, Any], Any],
    num_outputs: int,
    strengths: Sequence[float],
) -> list[float]:
    """Return the mean loss on the examples held out, of the head that the others give by each strength."""
    rest, held = (jax.tree.map(lambda leaf, rows=rows: leaf[rows], targets) for rows in (~is_held, is_held))
    fit = _problem(features[~is_held], rest, loss, num_outputs)
    found, vector = [], None
    for strength in strengths:
        vector = fit(strength, vector)
        kernel, bias = _halves(vector, features.shape[1], num_outputs)
        found.append(float(jnp.mean(loss(jnp.asarray(features[is_held] @ kernel + bias), held))))
    return found


def _problem(
    features: np.ndarray, targets: Any, loss: Callable[[Any, Any], Any], num_outputs: int
) -> Callable[[float, np.ndarray | None], np.ndarray]:
    """Return what minimises for a strength, from a start (None: zeros)."""
    from scipy.optimize import minimize

    features, targets = jax.device_put((features, targets))

    def both(vector: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        found = _objective(vector, strength, features, targets, loss=loss, num_outputs=num_outputs)
        value, gradient = jax.device_get(found)
        return float(value), np.asarray(gradient, np.float64)

    def fit(strength: float, start: np.ndarray | None) -> np.ndarray:
        start = np.zeros((features.shape[1] + 1) * num_outputs) if start is None else start
        options = {"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": 1e-13, "maxcor": 20}
        found = minimize(both, start, args=(strength,), jac=True, method="L-BFGS-B", options=options)
        return found.x

    return fit


# Compiled once for all problems of the same shapes, such as folds and episodes.
@partial(jax.jit, static_argnames=("loss", "num_outputs"))
def _objective(
    vector: Any,
    strength: Any,
    features: Any,
    targets: Any,
    *,
    loss: Callable[[Any, Any], Any],
    num_outputs: int,
) -> Any:
    """Return what is minimised, over the number of examples, and its gradient."""

    def value(vector: Any) -> Any:
        kernel, bias = _halves(vector, features.shape[1], num_outputs)
        total = jnp.sum(loss(features @ kernel + bias[None], targets))
        return (total + 0.5 * strength * jnp.sum(jnp.square(kernel))) / len(features)

    return jax.value_and_grad(value)(vector)


def _halves(vector: Any, dim: int, num_outputs: int) -> tuple[Any, Any]:
    return vector[: dim * num_outputs].reshape(dim, num_outputs), vector[dim * num_outputs :]
