"""The end of a run: the best step is measured on every split, exported and summed up."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl import distributed, tree
from jtl.report import summary, tables
from jtl.report.writer import FINAL, Numbers
from jtl.training import account, adaptation, evaluate, loop, meta, notes, precision, progress, sharding
from jtl.training import state as states
from jtl.training.checkpoint import Checkpoints
from jtl.training.checkpoint_faults import Damage
from jtl.training.ready import FINISHED, GIVEN_UP, VALIDATION, Ended, Run
from jtl.training.state import State
from jtl.weights.run_folder import write_run_weights


class Outcome(NamedTuple):
    """What the best step is worth: its step and metrics by name, the sha256 of its file of weights, and all
    that is known of each split."""

    scores: dict[str, Any]
    model_sha256: str
    told: Mapping[str, account.Told] = {}


NOT_YET = Outcome({}, "")


def report(ready: Run, ended: Ended, checkpoints: Checkpoints, writer: Numbers) -> Outcome:
    """Measure the best step on every split that is not for training; write weights, tables and plots.

    Of several processes all measure, and one writes.
    """
    state, is_writer = _best_state(ready, ended, checkpoints), distributed.is_writer()
    if ready.settled is not None:
        settled = ready.settled(state, ended.history)
        for name, values in settled.files.items():
            summary.write_json(ready.plan.folder / name, values)
        for line in settled.lines:
            notes.say(ready, line)
        ready, state = settled.ready, settled.state
    params = _as_loaded(ready, states.params_for_evaluation(state))
    merged = ready.plan.built.parts.strategy.merged(params)
    model_state, model_sha256 = sharding.fetched(state.model_state), ""
    if is_writer:
        model_sha256 = write_run_weights(ready.plan.folder, merged, model_state)
    scores: dict[str, Any] = {"step": int(state.step)}
    told: dict[str, account.Told] = {}
    for split in ready.feed.eval_batches:
        known = ended.measured if split == VALIDATION and state is ended.state else None
        found = loop.evaluated(ready, state, split) if known is None else known
        scores |= {f"{split}/{name}": value for name, value in found.scalars.items()}
        if not is_writer:
            continue
        each = told[split] = account.of_split(ready, split, found, told)
        text = tables.final_table(each.shown, ready.plan.stats.label_names, intervals=each.intervals)
        ready.reporter.live.log(f"{split}, step {int(state.step)}:\n{text}")
        result = {"split": split, "num_examples": len(ready.feed.splits[split]), "metrics": found.scalars}
        result |= each.more
        evaluate.write(ready.plan.folder / split, result, found, ready.plan.stats.label_names)
    final = {name: value for name, value in scores.items() if name.startswith(FINAL)}
    if final:
        writer.scalars(int(state.step), final)
    return Outcome(scores, model_sha256, told)


def summarize(ready: Run, ended: Ended, digest: str, outcome: Outcome = NOT_YET) -> dict[str, Any]:
    """Return what summary.json says; `digest` is of the last step's parameters."""
    last = ended.history[-1] if ended.history else {}
    found = summary.build(
        status=ended.status,
        steps=int(ended.state.step),
        final=adaptation.scalars(last),
        best=outcome.scores,
        phases=ready.reporter.phases,
        num_examples=ended.num_examples,
        unit=ready.plan.built.parts.input.unit,
        parameters=meta.parameters(ready.plan.built),
        weights=meta.source(ready.plan.built),
        digest=digest,
        model_sha256=outcome.model_sha256,
        peak_memory_bytes=ready.reporter.live.peak_memory_bytes(),
        target=None if ready.feed.target is None else _outcome(ready, ended),
    )
    if ended.skipped:
        found["skipped_steps"] = list(ended.skipped)
    return found | summary.plain(
        account.intervals(outcome.told) | ready.reporter.goodput(int(ended.state.step))
    )


def stopped(ready: Run, ended: Ended, digest: str) -> dict[str, Any]:
    """Leave the summary of a run that ends before its last step, and return it."""
    number = int(ended.state.step)
    if ended.status == GIVEN_UP:
        said = f"given up at step {number}, and saved"
    elif number:
        said = f"stopped at step {number} and saved; repeat the command to go on"
    else:
        said = "stopped before the first step; repeat the command"
    ready.reporter.live.log(said)
    result = summarize(ready, ended, digest)
    if distributed.is_writer():
        summary.write_json(ready.plan.folder / "summary.json", result)
    return result


def digest(ready: Run, state: State) -> str:
    """Return the sha256 over the parameters: equal runs show equal ones."""
    return tree.sha256(_as_loaded(ready, tree.merge(state.trainable, state.frozen)))


def _best_state(ready: Run, ended: Ended, checkpoints: Checkpoints) -> State:
    """Return the state with the values of the best step: what is measured and written of it.

    They take the place of the last step's on the devices, which hold no second model: `ended` loses its own.
    """
    best = progress.best(
        ended.history, ready.plan.monitor, is_maximized=ready.plan.task_kind.is_maximized(ready.plan.monitor)
    )
    state = ended.state
    if best is None or best["step"] == int(state.step):
        return state
    like = {name: getattr(state, name) for name in ("ema" if state.ema else "trainable", "model_state")}
    try:
        values = checkpoints.restore_values(int(best["step"]), like)
    except Damage as damage:
        notes.say(
            ready,
            f"checkpoint {best['step']}, the best, is damaged ({damage}); the last step is reported and "
            f"exported in its place",
        )
        return state
    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    for leaf in jax.tree.leaves(like):
        leaf.delete()
    number = sharding.put(np.int32(best["step"]), state.step.sharding)
    return state._replace(step=number, **sharding.put(values, places))


def _as_loaded(ready: Run, params: Any) -> Any:
    """Return parameters on the host, frozen ones in the precision they were loaded in."""
    return precision.widened(sharding.fetched(params), ready.plan.built.params)


def _outcome(ready: Run, ended: Ended) -> dict[str, Any]:
    found = adaptation.outcome(ended.history, ready.plan.monitor, ready.plan.task_kind)
    if ended.status in FINISHED and found:
        ready.reporter.live.log(adaptation.table(found))
    return found
