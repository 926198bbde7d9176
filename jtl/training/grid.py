"""Several heads on the same features, side by side in one step: a grid of which validation chooses one.

The parts of the step are exchanged for those of many heads: leaves of the head have a first dim more, the
model gives logits of each, the task adds up the heads' losses, the optimizer moves each head by its own
gradient alone, at its own rate and decay. A head so moves as it would in a run of its own.

Shape legend: h heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jtl import metrics
from jtl.errors import UserError, nearest, shown
from jtl.metrics import GRID_PREFIX, Summary
from jtl.models import Model, Outputs
from jtl.models.head import NO_ADAPTER
from jtl.models.shapes import output_shapes
from jtl.report.tables import aligned
from jtl.strategies.contract import Cell
from jtl.tasks import Task
from jtl.training import optim, progress
from jtl.training.build import Built
from jtl.training.config import Config
from jtl.training.state import State
from jtl.training.step import Parts

HEAD, CHOSEN = "head", f"{GRID_PREFIX}chosen"
FILE = "grid.json"
BOTH, CLASS, MEAN = "cls_mean", "cls", "mean"


class Row(NamedTuple):
    """A head of the grid, and the metric that chooses: at the step that is kept, and its own best."""

    head: dict[str, Any]
    kept: float
    best: float


def check(settings: Config, built: Built, split_names: Sequence[str]) -> None:
    """Check that the grid can be trained and chosen from.

    Raises:
        UserError: it cannot.
    """
    cells, model = built.parts.strategy.heads, settings.model
    if not cells:
        return
    if "val" not in split_names:
        raise UserError(
            "strategy.grid_… needs a validation split to choose on; set data.val_fraction above 0"
        )
    if settings.data.target:
        raise UserError("strategy.grid_… and data.target are both set; expected one of them")
    if settings.optim.sam_radius:
        raise UserError(f"optim.sam_radius is {settings.optim.sam_radius}; expected 0 with strategy.grid_…")
    has_choice = any(cell.layers or cell.pool for cell in cells)
    if has_choice and (model.adapter != NO_ADAPTER or model.head_widths):
        raise UserError(
            "strategy.grid_layers and strategy.grid_pools choose what a linear head reads; set "
            "model.adapter='none' and model.head_widths=()"
        )
    for name in sorted({name for cell in cells for name in cell.layers} - set(model.features)):
        wanted = tuple(dict.fromkeys([*model.features, *(each for cell in cells for each in cell.layers)]))
        near = f"; nearest: {nearest(name, model.features)}" if model.features else ""
        raise UserError(
            f"strategy.grid_layers names {shown(name)}, which model.features has not{near}; set "
            f"model.features={wanted}"
        )
    if any(cell.pool for cell in cells) and (model.feature_pool != BOTH or not model.features):
        raise UserError(
            f"strategy.grid_pools chooses of what model.feature_pool={BOTH!r} makes of model.features; set "
            f"both"
        )


def widened(built: Built, settings: Config) -> Built:
    """Return the parts and values with as many heads as the strategy has; as they are where it has none."""
    cells = built.parts.strategy.heads
    if not cells:
        return built
    heads = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * len(cells)), built.params[HEAD])
    parts = built.parts._replace(optimizer=_optimizer(settings, built.parts, cells))
    return built._replace(parts=parts, params={**built.params, HEAD: heads})


def parts_of(parts: Parts, built: Built, settings: Config, monitor: str, *, is_maximized: bool) -> Parts:
    """Return the parts of a step behind the cut with those of many heads; as they are where there is one."""
    cells = parts.strategy.heads
    if not cells:
        return parts
    return parts._replace(
        model=_model(parts.model, masks(settings, built, cells)),
        task=_task(parts.task, len(cells), monitor, is_maximized=is_maximized),
        optimizer=_optimizer(settings, parts, cells),
    )


def masks(settings: Config, built: Built, cells: Sequence[Cell]) -> Float[np.ndarray, "h features"] | None:
    """Return which features each head reads, as 0 and 1; None where all read all."""
    if not any(cell.layers or cell.pool for cell in cells):
        return None
    own = {name: leaf for name, leaf in built.params.items()}
    shapes = output_shapes(built.parts.model, own, built.model_state).intermediates
    columns: list[tuple[str, str]] = []
    for name in settings.model.features:
        is_tokens, width = len(shapes[name].shape) == 3, shapes[name].shape[-1]
        pools = (CLASS, MEAN) if is_tokens and settings.model.feature_pool == BOTH else ("",)
        columns += [(name, pool) for pool in pools for _ in range(width)]
    reads = {"": ("", CLASS, MEAN), BOTH: ("", CLASS, MEAN), CLASS: ("", CLASS), MEAN: ("", MEAN)}
    rows = [
        [
            name in (cell.layers or settings.model.features) and pool in reads[cell.pool]
            for name, pool in columns
        ]
        for cell in cells
    ]
    return np.asarray(rows, np.float32)


def chosen(state: State, place: int, mask: np.ndarray | None) -> State:
    """Return the state with one of the heads alone, for evaluation; what it does not read has weight 0."""

    def alone(leaves: Any) -> Any:
        head = jax.tree.map(lambda leaf: leaf[place], leaves[HEAD])
        if mask is not None:
            head = {**head, "kernel": head["kernel"] * jnp.asarray(mask[place])[:, None]}
        return {**leaves, HEAD: head}

    return state._replace(
        trainable=alone(state.trainable), ema=alone(state.ema) if state.ema else state.ema, opt_state=()
    )


def rows_of(
    settings: Config,
    cells: Sequence[Cell],
    history: Sequence[Mapping[str, Any]],
    entry: Mapping[str, Any],
    *,
    is_maximized: bool,
) -> list[Row]:
    """Return a row for each head, with the metric at the step that was kept and the best of all."""
    best = max if is_maximized else min
    found = []
    for place, cell in enumerate(cells):
        known = [each[f"{GRID_PREFIX}{place}"] for each in history if f"{GRID_PREFIX}{place}" in each]
        found.append(Row(described(settings, cell), entry[f"{GRID_PREFIX}{place}"], best(known)))
    return found


def described(settings: Config, cell: Cell) -> dict[str, Any]:
    """Return all that a head is, with what the run's settings say."""
    optimizer, model = settings.optim, settings.model
    return {
        "learning_rate": optimizer.learning_rate if cell.learning_rate is None else cell.learning_rate,
        "weight_decay": optimizer.weight_decay if cell.weight_decay is None else cell.weight_decay,
        "layers": list(cell.layers or model.features),
        "pool": cell.pool or (model.feature_pool if model.features else ""),
    }


def _model(model: Model, reads: np.ndarray | None) -> Model:
    def apply(params: Any, model_state: Any, inputs: Any, **options: Any) -> Outputs:
        def one(head: Any, mask: Any) -> tuple[Array, Array]:
            # The first argument of a head are the features.
            first = min(inputs)
            seen = inputs if mask is None else {**inputs, first: inputs[first] * mask[None]}
            outputs = model.apply({**params, HEAD: head}, model_state, seen, **options)
            return outputs.features, outputs.logits

        over = (0, None if reads is None else 0)
        features, logits = jax.vmap(one, in_axes=over)(
            params[HEAD], None if reads is None else jnp.asarray(reads)
        )
        return Outputs(features[0], logits, model_state, {})

    return model._replace(apply=apply)


def _task(task: Task, count: int, monitor: str, *, is_maximized: bool) -> Task:
    def loss(logits: Float[Array, "h batch ..."], targets: Any) -> Float[Array, " batch"]:
        return jnp.mean(jax.vmap(lambda each: task.loss(each, targets))(logits), axis=0)

    def sums(logits: Float[Array, "h batch ..."], batch: Any) -> metrics.Sums:
        found = jax.vmap(lambda each: task.metrics(each, batch))(logits)
        return {**found, "count": found["count"][0]}

    def summarize(totals: Mapping[str, np.ndarray]) -> Summary:
        found = [
            task.summarize({name: each if name == "count" else each[place] for name, each in totals.items()})
            for place in range(count)
        ]
        entries = [{"step": each, **one.scalars} for each, one in enumerate(found)]
        best = progress.best(entries, monitor, is_maximized=is_maximized)
        assert best is not None, "a grid has heads"
        place = int(best["step"])
        rows = {f"{GRID_PREFIX}{each}": one.scalars[monitor] for each, one in enumerate(found)}
        return found[place]._replace(scalars={**found[place].scalars, CHOSEN: float(place), **rows})

    return task._replace(loss=loss, metrics=sums, summarize=summarize)


def _optimizer(settings: Config, parts: Parts, cells: Sequence[Cell]) -> optax.GradientTransformation:
    """Return the transformation that moves each head as its own would, those of one weight decay together."""
    config, has_course = settings.optim, settings.train.minutes > 0
    decays = [config.weight_decay if cell.weight_decay is None else cell.weight_decay for cell in cells]
    rates = [config.learning_rate if cell.learning_rate is None else cell.learning_rate for cell in cells]
    scales = np.asarray(rates, np.float64) / config.learning_rate
    starts = [place for place, decay in enumerate(decays) if place == 0 or decay != decays[place - 1]]
    spans = list(zip(starts, [*starts[1:], len(cells)], strict=True))
    inner = [
        optim.make(
            replace(config, weight_decay=decays[start]), parts.groups, parts.num_steps, has_course=has_course
        )
        for start, _ in spans
    ]

    def cut(leaves: Any, span: tuple[int, int]) -> Any:
        return jax.tree.map(lambda leaf: leaf[span[0] : span[1]], leaves)

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(jax.vmap(each.init)(cut(params, span)) for each, span in zip(inner, spans, strict=True))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, tuple[Any, ...]]:
        # The loss is the mean over the heads.
        updates = jax.tree.map(lambda leaf: leaf * len(cells), updates)
        moved, states = [], []
        for each, span, own in zip(inner, spans, state, strict=True):
            found, new = jax.vmap(each.update)(cut(updates, span), own, cut(params, span))
            scale = jnp.asarray(scales[span[0] : span[1]], jnp.float32)
            moved.append(
                jax.tree.map(lambda leaf, by=scale: leaf * by.reshape(-1, *(1,) * (leaf.ndim - 1)), found)
            )
            states.append(new)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *moved), tuple(states)

    return optax.GradientTransformation(init, update)


def words(head: Mapping[str, Any]) -> str:
    """Return what a head is, for people.

    >>> words({"learning_rate": 0.1, "weight_decay": 0.0, "layers": [], "pool": ""})
    'learning rate 0.1, weight decay 0'
    """
    layers = f", {' + '.join(head['layers'])}" if head["layers"] else ""
    pool = f", {head['pool']}" if head["pool"] else ""
    return f"learning rate {head['learning_rate']:g}, weight decay {head['weight_decay']:g}{layers}{pool}"


def table(rows: Sequence[Row], place: int, metric: str) -> str:
    """Return a line for each head, that of the one at `place` marked."""
    header = ["head", "learning rate", "weight decay", "layers", "pool", f"{metric}, kept step", "own best"]
    lines = [
        [
            f"{'*' if each == place else ''}{each}",
            f"{row.head['learning_rate']:g}",
            f"{row.head['weight_decay']:g}",
            " + ".join(row.head["layers"]),
            row.head["pool"],
            f"{row.kept:.4f}",
            f"{row.best:.4f}",
        ]
        for each, row in enumerate(rows)
    ]
    return aligned([header, *lines], left=(3, 4))
