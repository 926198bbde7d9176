"""The story of a run: build, restore, loop, evaluate, report. No arithmetic, no jit, no branch on a name."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from jtl import distributed, signals
from jtl.errors import UserError, at_end
from jtl.report import curves, summary, tables
from jtl.report.console import Live
from jtl.report.goodput import Attempts
from jtl.report.summary import Phases
from jtl.report.writer import Unwritten, Writer
from jtl.signals import StopRequest
from jtl.training import (
    account,
    agreement,
    budget,
    claim,
    config,
    dispatch,
    features,
    finish,
    loop,
    mirror,
    notes,
    preparation,
    progress,
    shared,
    watchdog,
)
from jtl.training.checkpoint import Checkpoints
from jtl.training.config import Config
from jtl.training.ready import FINISHED, Caller, Run
from jtl.training.state import State
from jtl.weights.contract import NO_WEIGHTS


def run_folder(settings: Config, spec: str) -> Path:
    """Return the run folder where none is named: runs/CONFIG-DIGEST, which the same command finds again."""
    decisive = config.without_resumable(config.to_dict(settings))
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{Path(spec.partition(':')[0]).stem}-{digest[:8]}"


def run(
    settings: Config,
    folder: Path,
    stop: StopRequest | None = None,
    *,
    explain: account.Explain | None = None,
    began: float | None = None,
    is_given_up: Callable[[progress.History], bool] | None = None,
    said: Sequence[str] = (),
) -> dict[str, Any]:
    """Train as configured, or resume what the folder holds, and return what summary.json says.

    With `baseline`, the same model is then trained from random weights under `folder/scratch` and both are
    compared. `stop` is the caller's, who makes several runs; without one the run listens for signals itself.
    `explain` says what the predictions hang on that the report shows; without it the report does not.
    `began` is when the command did, on the clock `time.monotonic` (None: now). `is_given_up` is asked after
    each evaluation, with all so far, and ends a run that is not worth its rest (None: none is). `said`
    are lines that tell how its settings came to be.

    Raises:
        UserError: another process owns the folder, it belongs to another configuration, or configuration,
            data and weights do not fit.
    """
    if settings.baseline and settings.model.weights == NO_WEIGHTS:
        raise UserError(
            f"baseline is true and model.weights is {NO_WEIGHTS!r}: both runs would be the same; expected "
            f"pretrained weights, or baseline=false"
        )
    live, began = Live(), time.monotonic() if began is None else began
    with shared.owned(folder, live.log, by="run"), mirror.kept(settings, folder, live.log) as copy:
        return _run(settings, folder, live, Caller(stop, explain, began, is_given_up, said, copy))


def _run(settings: Config, folder: Path, live: Live, caller: Caller) -> dict[str, Any]:
    live.log(f"run folder: {folder}")
    result = distributed.told(f"{folder} finished", lambda: claim.finished(settings, folder, live))
    if caller.copy is not None:
        caller.copy.claim()
    result = result or _train(settings, folder, live, caller)
    if not settings.baseline or result["status"] not in FINISHED:
        return result
    other = run(preparation.scratch(settings), folder / preparation.SCRATCH, caller.stop)
    if other["status"] not in FINISHED:
        return {**result, "status": other["status"]}
    live.log(tables.comparison({"pretrained": result, "from scratch": other}))
    return result


def _train(settings: Config, folder: Path, live: Live, caller: Caller) -> dict[str, Any]:
    live.log(config.text(settings))
    phases = Phases()
    with phases.measure("load"):
        ready, state, checkpoints = preparation.prepare(settings, folder, live, phases, caller.copy)
    for line in caller.said:
        notes.say(ready, line)
    listening = signals.listening() if caller.stop is None else nullcontext(caller.stop)
    with at_end(ready.feed.close), at_end(checkpoints.close):
        with phases.measure("load"):
            state, history = _restored(ready, state, checkpoints)
            whole = ready
            ready, state = features.begun(whole, state)
        spent = budget.of_run(
            state,
            settings,
            dispatch.sizes(ready),
            folder,
            phases=phases.seconds,
            began=caller.began,
            is_explained=caller.explain is not None,
        )
        ready = ready._replace(budget=spent, is_given_up=caller.is_given_up)
        is_writer, measured = distributed.is_writer(), [entry["step"] for entry in history]
        writer = Writer(folder, int(state.step), measured) if is_writer else Unwritten()
        if is_writer:
            attempts = Attempts(folder, int(state.step), phases.seconds, caller.began)
            ready = ready._replace(reporter=ready.reporter._replace(attempts=attempts))
        watching = watchdog.watching(settings.train.hang_seconds, folder, phases)
        with at_end(writer.close), watching:
            with listening as own, own.deferred():
                stop = agreement.of(own, ready.programs.mesh)
                ended = loop.run(ready, state, history, checkpoints, writer, stop)
                with phases.measure("checkpoint"):
                    checkpoints.wait()
                    checkpoints.tidy(ended.history)
                    latest = stop.latest()
                digest = finish.digest(ready, ended.state)
                # Asked since its last step: the report can wait.
                if latest and ended.status in FINISHED:
                    ended = ended._replace(status="preempted")
                if ended.status not in FINISHED:
                    return finish.stopped(ready, ended, digest)
            outcome = finish.report(ready, ended, checkpoints, writer)
    whole = whole._replace(budget=ready.budget)
    overlays = account.explained(whole, outcome.told, caller.explain)
    result = finish.summarize(ready, ended, digest, outcome)
    if is_writer:
        curves.plot(folder / "metrics.jsonl", folder / "curves.png")
        account.write(whole, outcome.told, result, overlays)
        # Last: with it nothing is left to do, and a repeat does nothing.
        summary.write_json(folder / "summary.json", result)
    return result


def _restored(ready: Run, state: State, checkpoints: Checkpoints) -> tuple[State, progress.History]:
    """Return the newest sound checkpoint's state and history, or those of a new run."""
    restored = checkpoints.restore(state, partial(notes.say, ready))
    if restored is None:
        return state, []
    of = "" if ready.plan.settings.train.minutes else f" of {ready.num_steps}"
    ready.reporter.live.log(f"resumed at step {restored.step}{of}")
    return restored.state, restored.meta["history"]
