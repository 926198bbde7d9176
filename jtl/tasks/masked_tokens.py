"""Masked tokens: some tokens of a text are hidden, and the model says which (Devlin et al. 2019, sec. 3.1).

A target that is no label: it is drawn from the text itself, anew at every step, and the same again in every
evaluation. Continued pretraining on the user's own texts.

Shape legend: b examples, t tokens, k places at which something may be hidden.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jtl import metrics
from jtl.errors import UserError
from jtl.inputs import tokens
from jtl.ranges import Range, Share, check
from jtl.tasks.contract import NO_LABELS, Batch, Head, LabelStats, Task, TaskKind

Targets = Mapping[str, Array]
# Above it, the exponential is no number of float64.
MAX_EXPONENT = 700.0


@dataclass(frozen=True)
class Config:
    """Settings of the task.

    Of each text the share `fraction` of its tokens, but no special ones, is to be said: rounded, at least
    one. Of these the share `masked` is shown as the mask token, `random` as any token of the vocabulary, the
    others as they are.
    """

    name: str = "masked_tokens"
    fraction: Annotated[float, Range(above=0, high=1)] = 0.15
    masked: Share = 0.8
    random: Share = 0.1

    def __post_init__(self) -> None:
        check(self, "task")
        if self.masked + self.random > 1.0:
            raise UserError(
                f"task.masked is {self.masked} and task.random {self.random}; expected shares of at most 1 "
                f"together"
            )


def stats(labels: np.ndarray, label_names: tuple[str, ...]) -> LabelStats:
    """Return how many texts there are: there are no labels."""
    del label_names
    return LabelStats((), len(labels))


def head(config: Config, label_stats: LabelStats) -> Head:
    """Return the head: the model's own, over its vocabulary."""
    del config, label_stats
    return Head(0, "vocabulary")


def build(config: Config, label_stats: LabelStats, preprocess: tokens.Preprocess) -> Task:
    """Build the task for texts that become tokens as `preprocess` says.

    Raises:
        UserError: the tokenizer has no mask token.
    """
    if preprocess.mask_id < 0:
        raise UserError(
            "task 'masked_tokens' hides tokens behind the tokenizer's mask token, and this one has none; "
            "give weights whose tokenizer has one"
        )
    return Task(
        head=head(config, label_stats),
        targets=partial(
            targets,
            config,
            preprocess=preprocess,
        ),
        shown=shown,
        loss=loss,
        weights=weights,
        metrics=lambda logits, batch: sums(logits, batch["target"], batch["mask"]),
        summarize=summarize,
        predictions=jax.nn.softmax,
        averaged=lambda logits: jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits)),
        can_blend=False,
    )


def targets(
    config: Config,
    batch: Batch,
    key: Key[Array, ""],
    *,
    preprocess: tokens.Preprocess,
) -> dict[str, Array]:
    """Draw what is hidden, of each example by the key and its id alone.

    `places` [b, k] are where, `is_hidden` [b, k] whether there is something, `ids` [b, k] what it is, and
    `given` [b, k] what is shown in its place.
    """
    is_free = tokens.hideable(batch["inputs"], preprocess)
    draw = partial(_drawn, config, mask_id=preprocess.mask_id, vocabulary=preprocess.vocabulary)
    return jax.vmap(draw, in_axes=(None, 0, 0, 0))(key, batch["id"], batch["inputs"]["ids"], is_free)


def shown(inputs: Mapping[str, Array], targets: Targets) -> dict[str, Array]:
    """Return the inputs with what is hidden replaced, and the places that the model is asked of."""
    rows = jnp.arange(len(targets["places"]))[:, None]
    ids = inputs["ids"].at[rows, targets["places"]].set(targets["given"])
    return {**inputs, "ids": ids, "places": targets["places"]}


def loss(logits: Float[Array, "b k vocabulary"], targets: Targets) -> Float[Array, " b"]:
    """Return each example's cross-entropy in nats, added up over what is hidden of it."""
    return jnp.sum(jnp.where(targets["is_hidden"], _nats(logits, targets["ids"]), 0.0), axis=-1)


def weights(targets: Targets) -> Float[Array, " b"]:
    """Return how many tokens of each example are hidden."""
    return jnp.sum(targets["is_hidden"], axis=-1).astype(jnp.float32)


def sums(logits: Float[Array, "b k vocabulary"], targets: Targets, mask: Bool[Array, " b"]) -> metrics.Sums:
    """Return the numbers of examples and of hidden tokens, their nats, and how many were said right."""
    is_counted = targets["is_hidden"] & mask[:, None]
    is_right = jnp.argmax(logits, axis=-1) == targets["ids"]
    return {
        "count": jnp.sum(mask.astype(jnp.int32)),
        "tokens": jnp.sum(is_counted.astype(jnp.int32)),
        "nats": jnp.sum(jnp.where(is_counted, _nats(logits, targets["ids"]), 0.0)),
        "correct": jnp.sum((is_counted & is_right).astype(jnp.int32)),
    }


def summarize(sums: Mapping[str, np.ndarray]) -> metrics.Summary:
    """Return loss (nats a hidden token), perplexity and the share of tokens that were said right."""
    num_hidden = max(float(sums["tokens"]), 1.0)
    nats = float(sums["nats"]) / num_hidden
    scalars = {
        "loss": nats,
        "perplexity": math.exp(min(nats, MAX_EXPONENT)),
        "accuracy": float(sums["correct"]) / num_hidden,
    }
    return metrics.Summary(scalars, {}, None)


def _drawn(
    config: Config,
    key: Key[Array, ""],
    example: Int[Array, ""],
    ids: Int[Array, " t"],
    is_free: Bool[Array, " t"],
    *,
    mask_id: int,
    vocabulary: int,
) -> dict[str, Array]:
    order_key, kind_key, id_key = jax.random.split(jax.random.fold_in(key, example), 3)
    num_places = max(1, math.ceil(config.fraction * len(ids)))
    order = jnp.where(is_free, jax.random.uniform(order_key, ids.shape), jnp.inf)
    places = jnp.argsort(order)[:num_places]
    num_free = jnp.sum(is_free)
    num_hidden = jnp.minimum(jnp.maximum(jnp.round(config.fraction * num_free), 1), num_free)
    is_hidden = jnp.arange(num_places) < num_hidden
    kind = jax.random.uniform(kind_key, (num_places,))
    other = jax.random.randint(id_key, (num_places,), 0, vocabulary, ids.dtype)
    given = jnp.where(kind < config.masked, mask_id, ids[places])
    given = jnp.where((kind >= config.masked) & (kind < config.masked + config.random), other, given)
    return {
        "places": places,
        "is_hidden": is_hidden,
        "ids": ids[places],
        "given": jnp.where(is_hidden, given, ids[places]).astype(ids.dtype),
    }


def _nats(logits: Float[Array, "b k vocabulary"], ids: Int[Array, "b k"]) -> Float[Array, "b k"]:
    own = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - own


MAXIMIZED = {"loss": False, "perplexity": False, "accuracy": True}
KIND = TaskKind(Config, NO_LABELS, stats, head, build, "loss", MAXIMIZED)
