"""The story of a run: build, restore, loop, evaluate, report. No arithmetic, no jit, no branch on a name."""

import hashlib
import json
import time
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
    claim,
    config,
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
from jtl.training.mirror import Mirror
from jtl.training.ready import FINISHED, Ended, Run
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
) -> dict[str, Any]:
    """Train as configured, or resume what the folder holds, and return what summary.json says.

    With `baseline`, the same model is then trained from random weights under `folder/scratch` and both are
    compared. `stop` is the caller's, who makes several runs; without one the run listens for signals itself.
    `explain` says what the predictions hang on that the report shows; without it the report does not.
    `began` is when the command did, on the clock `time.monotonic` (None: now).

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
        return _run(settings, folder, live, stop, explain=explain, began=began, copy=copy)


def _run(
    settings: Config,
    folder: Path,
    live: Live,
    stop: StopRequest | None,
    *,
    explain: account.Explain | None,
    began: float,
    copy: Mirror | None,
) -> dict[str, Any]:
    live.log(f"run folder: {folder}")
    result = distributed.told(f"{folder} finished", lambda: claim.finished(settings, folder, live))
    if copy is not None:
        copy.claim()
    result = result or _train(settings, folder, live, stop, explain=explain, began=began, copy=copy)
    if not settings.baseline or result["status"] not in FINISHED:
        return result
    other = run(preparation.scratch(settings), folder / preparation.SCRATCH, stop)
    if other["status"] not in FINISHED:
        return {**result, "status": other["status"]}
    live.log(tables.comparison({"pretrained": result, "from scratch": other}))
    return result


def _train(
    settings: Config,
    folder: Path,
    live: Live,
    asked: StopRequest | None,
    *,
    explain: account.Explain | None,
    began: float,
    copy: Mirror | None,
) -> dict[str, Any]:
    live.log(config.text(settings))
    phases = Phases()
    with phases.measure("load"):
        ready, state, checkpoints = preparation.prepare(settings, folder, live, phases, copy)
    listening = signals.listening() if asked is None else nullcontext(asked)
    with at_end(ready.feed.close), at_end(checkpoints.close):
        with phases.measure("load"):
            state, history = _restored(ready, state, checkpoints)
            whole = ready
            ready, state = features.begun(whole, state)
        is_writer, measured = distributed.is_writer(), [entry["step"] for entry in history]
        writer = Writer(folder, int(state.step), measured) if is_writer else Unwritten()
        if is_writer:
            attempts = Attempts(folder, int(state.step), phases.seconds, began)
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
                    return _stopped(ready, ended, digest)
            outcome = finish.report(ready, ended, checkpoints, writer)
    overlays = account.explained(whole, outcome.told, explain)
    result = finish.summarize(ready, ended, digest, outcome)
    if is_writer:
        curves.plot(folder / "metrics.jsonl", folder / "curves.png")
        account.write(whole, outcome.told, result, overlays)
        # Last: with it nothing is left to do, and a repeat does nothing.
        summary.write_json(folder / "summary.json", result)
    return result


def _stopped(ready: Run, ended: Ended, digest: str) -> dict[str, Any]:
    """Leave the summary of a run that is to go on."""
    number = int(ended.state.step)
    ready.reporter.live.log(
        f"stopped at step {number} and saved; repeat the command to go on"
        if number
        else "stopped before the first step; repeat the command"
    )
    result = finish.summarize(ready, ended, digest)
    if distributed.is_writer():
        summary.write_json(ready.plan.folder / "summary.json", result)
    return result


def _restored(ready: Run, state: State, checkpoints: Checkpoints) -> tuple[State, progress.History]:
    """Return the newest sound checkpoint's state and history, or those of a new run."""
    restored = checkpoints.restore(state, partial(notes.say, ready))
    if restored is None:
        return state, []
    ready.reporter.live.log(f"resumed at step {restored.step} of {ready.plan.built.parts.num_steps}")
    return restored.state, restored.meta["history"]
