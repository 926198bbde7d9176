"""Evaluation: every example once, sums added up, one division at the end."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jtl import metrics, signals
from jtl.data import Source, pipeline
from jtl.data.batch_size import check as check_batch_size
from jtl.inputs import Input, Inputs
from jtl.report import confusion, summary
from jtl.strategies.contract import EXTRA
from jtl.tasks import Task
from jtl.training import config, sharding
from jtl.training.build import Built
from jtl.training.state import State
from jtl.training.step import FIELDS, Batch, make_output_step

# Steps begun ahead of the one that is looked at: the devices always have work, and hold no more batches.
MAX_PENDING = 4
# Batches between two fetches of counts: int32 holds 33 million of each in a batch.
FETCH_EVERY = 64
# Logits of an evaluation that are kept on the host: 256 MiB of them.
MAX_KEPT = 1 << 26


def measure(
    eval_step: Callable[[Any, Batch], metrics.Sums],
    state: Any,
    batches: Any,
    *,
    mesh: Mesh,
    task: Task,
    num_examples: int,
    check: Callable[[], None] = signals.check,
) -> metrics.Summary:
    """Return the task's metrics over padded batches; `state` is whatever `eval_step` takes.

    Counts (int32; matrices of classes by classes among them) are added up on the devices and fetched every
    `FETCH_EVERY` batches, to be added in int64. Other sums are fetched with them, but batch by batch, to be
    added in float64, as float32 would round. Logits that stand beside the sums are kept with the labels, as
    long as they are no more than `MAX_KEPT` values. `check` is called between batches.
    """

    def begin(batch: Batch) -> metrics.Sums:
        return eval_step(state, sharding.put_batch(fields_of(batch), mesh))

    totals: metrics.Totals | None = None
    counts: metrics.Sums = {}
    others: list[metrics.Sums] = []
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for batch, sums in ahead(begin, batches, check=check):
        jax.block_until_ready(sums)
        logits = sums.get(metrics.LOGITS)
        if logits is not None and "label" in batch and num_examples * logits.shape[-1] <= MAX_KEPT:
            mask, label = (sharding.gathered(batch[name], mesh) for name in ("mask", "label"))
            kept.append((np.asarray(logits)[mask], label[mask]))
        whole, rest = metrics.divided({name: each for name, each in sums.items() if name != metrics.LOGITS})
        counts = _added(counts, whole) if others else whole
        others.append(rest)
        if len(others) == FETCH_EVERY:
            totals, others = _merged(totals, counts, others), []
    if others:
        totals = _merged(totals, counts, others)
    assert totals is not None, "evaluation of no batch"
    counted = int(totals["count"])
    assert counted == num_examples, f"evaluation counted {counted} of {num_examples} examples"
    found = task.summarize(totals)
    if not kept:
        return found
    logits, labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return found._replace(logits=logits, labels=labels)


def ahead(
    begin: Callable[[Batch], Any],
    batches: Iterable[Batch],
    num_ahead: int = MAX_PENDING,
    check: Callable[[], None] = signals.check,
) -> Iterator[tuple[Batch, Any]]:
    """Yield each batch with what `begin` gave of it, once it was called of `num_ahead` more.

    As `begin` does not wait for the devices, these work while the host does something with their results.
    """
    begun: deque[tuple[Batch, Any]] = deque()
    is_compiled = False
    for batch in batches:
        check()
        # The first one compiles.
        found = begin(batch) if is_compiled else signals.interruptibly(partial(begin, batch))
        is_compiled = True
        begun.append((batch, found))
        if len(begun) > num_ahead:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def prepared(built: Built, source: Source, settings: config.Config, mesh: Mesh) -> Built:
    """Return the parts with what the strategy wants to know of the training examples, before any step."""
    parts = built.parts
    if parts.strategy.prepare is None:
        return built
    batches = batches_of(
        source,
        parts.input,
        parts.preprocess,
        batch_size=settings.train.batch_size,
        mesh=mesh,
        settings=settings.inputs,
        setting="train.batch_size",
    )
    state = State(jnp.zeros([], jnp.int32), built.params, {}, built.model_state, (), {})
    program = sharding.with_whole_results(make_output_step(parts), mesh)
    outputs, labels = collect(program, state, batches, ("features", "logits"), mesh=mesh)
    extra = parts.strategy.prepare(built.params[EXTRA], outputs["features"], labels)
    return built._replace(params={**built.params, EXTRA: extra})


def fitted(built: Built, settings: config.Config, facts: Sequence[Any]) -> tuple[Built, list[str]]:
    """Return the parts with the pre-processing that the data asks for, and lines for people about that.

    `facts` are what the kind of input found of the examples.

    Raises:
        UserError: the data does not fit what the user set.
    """
    parts = built.parts
    preprocess, lines = parts.input.fitted(parts.preprocess, facts, settings.preprocess, is_trained=False)
    return built._replace(parts=parts._replace(preprocess=preprocess)), lines


def collect(
    output_step: Callable[[State, Batch], Mapping[str, Any]],
    state: State,
    batches: Iterable[Batch],
    names: tuple[str, ...],
    *,
    mesh: Mesh,
    check: Callable[[], None] = signals.check,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the outputs of those names, [examples, …], and the labels of padded batches, in order.

    Where there are no labels, the examples' indices stand in their place. Other outputs stay where they are.
    `check` is called between batches.
    """

    def begin(batch: Batch) -> dict[str, Any]:
        outputs = output_step(state, sharding.put_batch(fields_of(batch), mesh))
        return {name: outputs[name] for name in names}

    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    labels: list[np.ndarray] = []
    for batch, outputs in ahead(begin, batches, check=check):
        mask = sharding.gathered(batch["mask"], mesh)
        for name, values in jax.device_get(outputs).items():
            found[name].append(values[mask])
        labels.append(sharding.gathered(batch.get("label", batch["id"]), mesh)[mask])
    return {name: np.concatenate(parts) for name, parts in found.items()}, np.concatenate(labels)


def fields_of(batch: Batch, names: tuple[str, ...] = FIELDS) -> Batch:
    """Return what of a batch goes to the devices."""
    return {name: batch[name] for name in names if name in batch}


def batches_of(
    source: Source,
    kind: Input,
    preprocess: Any,
    *,
    batch_size: int,
    mesh: Mesh,
    settings: pipeline.Config,
    blank: Inputs | None = None,
    is_read_again: bool = False,
    setting: str = "--batch-size",
) -> pipeline.EvalBatches:
    """Return padded evaluation batches; the batch size is rounded up to a multiple of the devices.

    Of several processes each reads its own rows of every batch.

    `blank` and `is_read_again` are as `pipeline.eval_batches` has them; `setting` gave the batch size.

    Raises:
        UserError: a batch cannot fit in memory.
    """
    check_batch_size(kind, preprocess, batch_size, setting)
    size = -(-batch_size // mesh.size) * mesh.size
    own = sharding.rows_of(mesh)
    transform = kind.transform(preprocess, None)
    return pipeline.eval_batches(
        source,
        transform,
        kind,
        preprocess=preprocess,
        batch_size=size,
        config=settings,
        blank=blank,
        is_read_again=is_read_again,
        shard_index=own.place,
        num_shards=own.num,
    )


def write(
    folder: Path, result: Mapping[str, Any], found: metrics.Summary, label_names: tuple[str, ...]
) -> None:
    """Write metrics.json and, where the task has one, confusion.png."""
    folder.mkdir(parents=True, exist_ok=True)
    summary.write_json(folder / "metrics.json", result)
    if found.confusion is not None:
        confusion.plot(found.confusion, label_names, folder / "confusion.png")


def _merged(
    totals: metrics.Totals | None, counts: metrics.Sums, others: list[metrics.Sums]
) -> metrics.Totals:
    """Add to the totals what the devices added up, and what they left to the host, in its order."""
    counts, others = jax.device_get((counts, others))
    for sums in (counts, *others):
        totals = metrics.merge(totals, sums)
    assert totals is not None
    return totals


@jax.jit
def _added(totals: metrics.Sums, sums: metrics.Sums) -> metrics.Sums:
    return jax.tree.map(jnp.add, totals, sums)
