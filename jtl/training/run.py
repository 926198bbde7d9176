"""The story of a run: build, restore, loop, evaluate, report. No arithmetic, no jit, no branch on a name."""

import hashlib
import json
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jtl import distributed, runtime, signals
from jtl.data import Source, preflight
from jtl.errors import UserError, at_end
from jtl.report import curves, summary, tables
from jtl.report.console import Live
from jtl.report.goodput import Attempts
from jtl.report.summary import Phases
from jtl.report.writer import Unwritten, Writer
from jtl.signals import StopRequest
from jtl.strategies.contract import TARGET, UNLABELLED
from jtl.training import (
    account,
    agreement,
    build,
    choice,
    claim,
    config,
    dispatch,
    evaluate,
    features,
    finish,
    frozen,
    grid,
    loop,
    lost,
    meta,
    mirror,
    notes,
    precision,
    progress,
    rehearsal,
    remarks,
    routes,
    seen,
    sharding,
    shared,
    slices,
    solve,
    starting,
    step,
    streams,
    watchdog,
)
from jtl.training.build import Built, Target
from jtl.training.checkpoint import Checkpoints
from jtl.training.config import Config
from jtl.training.mirror import Mirror
from jtl.training.ready import FINISHED, Ended, Feed, Plan, Programs, Reporter, Run
from jtl.training.routes import Routed
from jtl.training.state import State
from jtl.weights.contract import NO_WEIGHTS

TARGET_TEST, SCRATCH = "target_test", "scratch"


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
    other = run(_scratch(settings), folder / SCRATCH, stop)
    if other["status"] not in FINISHED:
        return {**result, "status": other["status"]}
    live.log(tables.comparison({"pretrained": result, "from scratch": other}))
    return result


def _scratch(settings: Config) -> Config:
    """Return the settings of the run beside it, of the same model from random weights."""
    found = replace(settings, baseline=False, model=replace(settings.model, weights=NO_WEIGHTS))
    return mirror.below(found, SCRATCH)


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
        ready, state, checkpoints = prepare(settings, folder, live, phases, copy)
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


class _Opened(NamedTuple):
    """The readable examples of each split, another domain's, those without labels, and what to say of all."""

    splits: dict[str, Source]
    target: Target | None
    unlabelled: Source | None
    notes: list[str]
    facts: list[Any]


def prepare(
    settings: Config, folder: Path, live: Live, phases: Phases, copy: Mirror | None = None
) -> tuple[Run, State, Checkpoints]:
    """Open the data, build the model, show what will train; return the run, its first state and checkpoints.

    `copy` is told of each checkpoint.

    Where there is a checkpoint, that state lacks what the strategy learns of the training examples: it is
    in the checkpoint.
    """
    mesh = sharding.mesh(settings.sharding)
    build.check_batch(settings, sharding.num_shards(mesh))
    opened = _open(settings, live)
    splits, target, unlabelled = opened.splits, opened.target, opened.unlabelled
    stats = build.label_stats(settings, splits["train"])
    steps, count = build.num_steps(settings, len(splits["train"])), streams.num_examples(unlabelled)
    built = solve.planned(build.build(settings, stats, steps, num_unlabelled=count))
    built, said = evaluate.fitted(built, settings, opened.facts)
    beside = streams.named(target, unlabelled)
    streams.check(settings, built.parts, beside)
    sources = streams.of_batches(built.parts, splits["train"], beside)
    slices.check(settings, built.parts)
    if settings.baseline:
        _rehearse_scratch(settings, opened)
    notes = [*opened.notes, *_explained(built, splits, live, settings.preprocess)]
    monitor = choice.monitor(settings, built, splits, target)
    solve.check(settings, built)
    grid.check(settings, built, list(splits))
    shapes = starting.shapes(built.parts, settings, built.params, built.model_state)
    mesh, placed = sharding.chosen(settings.sharding, shapes, shapes.trainable)
    cut = frozen.decided(settings, built, len(splits["train"]))
    decided = [
        *placed,
        *preflight.sampled({**splits, **_beside(target, unlabelled)}, built.parts.input.unit),
        *(*said, *remarks.of_settings(settings), *remarks.of_run(settings, built, splits, monitor)),
        *(*cut.lines, *distributed.told(f"{folder} moved", lambda: meta.moved(folder))),
        *(*precision.remarks(settings, built.parts.groups), *runtime.remarks()),
    ]
    for line in decided:
        live.log(line)
    notes += decided
    live.log(tables.freeze_table(meta.freeze_rows(built, settings)))
    plan = Plan(settings, folder, stats, built, monitor)
    rehearsal.first_examples(built.parts, sources, splits)
    is_once = cut.cut is not None
    routed = _routed(plan, sources, mesh, live, is_passed_once=is_once)
    feed = _feed(plan, mesh, splits, routed, target)
    unit, asked = built.parts.input.unit, settings.train.steps_per_dispatch
    dispatch.check(asked, feed, unit, is_kept=is_once)
    every, told = dispatch.eval_every(settings, len(splits["train"])), [*notes, *routed.lines()]
    distributed.told(f"{folder} lost", lambda: lost.check(folder, settings.train, every))
    held = {**splits, **streams.named(None, unlabelled)}
    distributed.told(f"{folder} claim", lambda: claim.begun(plan, held, target, told, routed.name))
    checkpoints = claim.checkpoints(plan, step.unmoved(built.parts, shapes), copy)
    if not distributed.told(f"{folder} steps", checkpoints.steps):
        plan = plan._replace(built=evaluate.prepared(built, splits["train"], settings, mesh))
    state, state_sharding = build.initial_state(grid.widened(plan.built, settings.optim), settings, mesh)
    parts = plan.built.parts
    compiled = (step.make_eval_step(parts), step.make_output_step(parts))
    whole = (sharding.with_whole_results(each, mesh) for each in compiled)
    programs = Programs(mesh, state_sharding, *whole)
    return Run(plan, feed, programs, Reporter(live, phases), cut), state, checkpoints


def _routed(
    plan: Plan, sources: dict[str, Source], mesh: Mesh, live: Live, *, is_passed_once: bool
) -> Routed:
    """Return the streams by the route that the run takes, and say which it is."""
    begun = distributed.told(f"{plan.folder} route", lambda: routes.begun_with(plan.folder))
    routed = routes.opened(
        plan.settings,
        plan.built.parts,
        sources,
        mesh,
        begun=begun,
        say=live.log,
        is_passed_once=is_passed_once,
        told_as=f"{plan.folder} chosen",
    )
    for line in routed.lines():
        live.log(line)
    return routed


def _rehearse_scratch(settings: Config, opened: _Opened) -> None:
    try:
        rehearsal.check(_scratch(settings), opened.splits, opened.target, opened.unlabelled)
    except UserError as error:
        raise UserError(f"baseline, the same model from random weights, cannot be: {error}") from error


def _explained(built: Built, splits: dict[str, Source], live: Live, changes: Any) -> list[str]:
    """Say what was loaded and how examples are read; return what of it the run folder keeps.

    `changes` are the user's own to the pre-processing.
    """
    parts = built.parts
    if built.loaded is not None:
        live.log(built.loaded.report.text())
    notes = [
        seen.preprocess_text(parts.input, parts.preprocess, built.loaded, changes),
        *parts.input.remarks(parts.model.preprocess, parts.preprocess),
        *preflight.survey(splits, parts.input, parts.preprocess),
    ]
    for line in notes:
        live.log(line)
    # The report above says these too.
    return [*([] if built.loaded is None else built.loaded.report.remarks()), *notes]


def _feed(
    plan: Plan,
    mesh: Mesh,
    splits: dict[str, Source],
    routed: Routed,
    target: Target | None,
) -> Feed:
    settings, parts = plan.settings, plan.built.parts
    is_measured = target is not None and (target.is_labelled or build.has_classes(settings))
    batches_of = partial(
        evaluate.batches_of,
        kind=parts.input,
        preprocess=parts.preprocess,
        batch_size=settings.train.eval_batch_size or settings.train.batch_size,
        mesh=mesh,
        settings=settings.inputs,
        setting="train.eval_batch_size" if settings.train.eval_batch_size else "train.batch_size",
    )
    return Feed(
        splits=splits,
        streams=routed.streams,
        residents=routed.residents,
        target=target,
        eval_batches={
            # The loop measures on validation at every evaluation, on others the report alone.
            name: batches_of(source, is_read_again=name == "val")
            for name, source in splits.items()
            if name != "train"
        },
        target_batches=(
            batches_of(target.evaluation, is_read_again=True) if target is not None and is_measured else None
        ),
    )


def _open(settings: Config, live: Live) -> _Opened:
    """Open the data, and say what is in it."""
    splits = build.open_splits(settings)
    about = next(iter(splits.values())).info
    target = build.open_target(settings, about.label_names, about.reading)
    unlabelled = streams.open_unlabelled(settings)
    kind = config.input_of(settings.model)
    checked = preflight.inspect({**splits, **_beside(target, unlabelled)}, settings.data, kind)
    if "train" not in checked.splits:
        raise UserError(
            f"data {settings.data.path!r} has no training split; found {', '.join(checked.splits)}"
        )
    notes = [*checked.lines, *build.batch_remarks(settings, len(checked.splits["train"]))]
    for line in notes:
        live.log(line)
    found = dict(checked.splits)
    if target is not None:
        stream = found.pop(TARGET)
        target = target._replace(stream=stream, evaluation=found.pop(TARGET_TEST, stream))
    return _Opened(found, target, found.pop(UNLABELLED, None), notes, checked.facts)


def _beside(target: Target | None, unlabelled: Source | None) -> dict[str, Source]:
    """Return all that is read beside the splits, by name."""
    found = streams.named(target, unlabelled)
    is_one = target is None or target.evaluation is target.stream
    return found if is_one or target is None else {**found, TARGET_TEST: target.evaluation}


def _restored(ready: Run, state: State, checkpoints: Checkpoints) -> tuple[State, progress.History]:
    """Return the newest sound checkpoint's state and history, or those of a new run."""
    restored = checkpoints.restore(state, partial(notes.say, ready))
    if restored is None:
        return state, []
    ready.reporter.live.log(f"resumed at step {restored.step} of {ready.plan.built.parts.num_steps}")
    return restored.state, restored.meta["history"]
