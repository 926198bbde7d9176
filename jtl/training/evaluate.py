"""Evaluation: every example once, sums added up, one division at the end."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

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

MAX_PENDING = 4


def measure(
    eval_step: Callable[[Any, Batch], metrics.Sums],
    state: Any,
    batches: Any,
    *,
    mesh: Mesh,
    task: Task,
    num_examples: int,
) -> metrics.Summary:
    """Return the task's metrics over padded batches; `state` is whatever `eval_step` takes.

    A few batches' sums stay on the device, so that it always has work while the host adds up.
    """
    pending: list[metrics.Sums] = []
    totals: dict[str, np.ndarray] | None = None
    for batch in batches:
        signals.check()
        given = state, sharding.put_batch(fields_of(batch), mesh)
        # The first one compiles.
        pending.append(eval_step(*given) if pending else signals.interruptibly(partial(eval_step, *given)))
        if len(pending) > MAX_PENDING:
            totals = metrics.merge(totals, pending.pop(0))
    for sums in pending:
        totals = metrics.merge(totals, sums)
    assert totals is not None, "evaluation of no batch"
    counted = int(totals["count"])
    assert counted == num_examples, f"evaluation counted {counted} of {num_examples} examples"
    return task.summarize(totals)


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
    features, _, labels = collect(make_output_step(parts), state, batches, mesh=mesh)
    extra = parts.strategy.prepare(built.params[EXTRA], features, labels)
    return built._replace(params={**built.params, EXTRA: extra})


def collect(
    output_step: Callable[[State, Batch], tuple[Any, Any]], state: State, batches: Any, *, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features [examples, dim], logits [examples, outputs] and labels of padded batches, in order.

    Where there are no labels, the examples' indices stand in their place.
    """
    found: list[tuple[np.ndarray, ...]] = []
    for batch in batches:
        signals.check()
        outputs = output_step(state, sharding.put_batch(fields_of(batch), mesh))
        mask = batch["mask"]
        labels = batch.get("label", batch["id"])
        found.append((*(np.asarray(each)[mask] for each in outputs), labels[mask]))
    features, logits, labels = (np.concatenate(each) for each in zip(*found, strict=True))
    return features, logits, labels


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
    setting: str = "--batch-size",
) -> pipeline.EvalBatches:
    """Return padded evaluation batches; the batch size is rounded up to a multiple of the devices.

    `blank` is as `pipeline.eval_batches` has it; `setting` is what gave the batch size.

    Raises:
        UserError: a batch cannot fit in memory.
    """
    check_batch_size(kind, preprocess, batch_size, setting)
    size = -(-batch_size // mesh.size) * mesh.size
    transform = kind.transform(preprocess, None)
    return pipeline.eval_batches(
        source, transform, kind, preprocess=preprocess, batch_size=size, config=settings, blank=blank
    )


def write(
    folder: Path, result: Mapping[str, Any], found: metrics.Summary, label_names: tuple[str, ...]
) -> None:
    """Write metrics.json and, where the task has one, confusion.png."""
    folder.mkdir(parents=True, exist_ok=True)
    summary.write_json(folder / "metrics.json", result)
    if found.confusion is not None:
        confusion.plot(found.confusion, label_names, folder / "confusion.png")
