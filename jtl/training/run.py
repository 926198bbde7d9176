"""The story of a run: build, restore, loop, evaluate, report. No arithmetic, no jit, no branch on a name."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jtl import owner, signals, tree
from jtl.data import Source, preflight
from jtl.errors import UserError, at_end, nearest
from jtl.report import curves, summary, tables
from jtl.report.console import Live
from jtl.report.summary import Phases
from jtl.report.writer import FINAL_PREFIX, Writer
from jtl.signals import StopRequest
from jtl.strategies.contract import TARGET, TRAIN
from jtl.tasks import TASKS
from jtl.training import adaptation, build, config, evaluate, loop, meta, progress, sharding, step
from jtl.training import state as states
from jtl.training.build import Built, Target
from jtl.training.checkpoint import Checkpoints
from jtl.training.config import Config
from jtl.training.loop import FINISHED, Ended, Run
from jtl.training.state import State
from jtl.weights.contract import NO_WEIGHTS
from jtl.weights.run_folder import WEIGHTS_NAME, write_input_files, write_run_weights

TARGET_TEST = "target_test"
# What a run's length is made of.
LENGTHS = ("train.epochs:", "train.steps:")


def run_folder(settings: Config, spec: str) -> Path:
    """Return the run folder where none is named: runs/CONFIG-DIGEST, which the same command finds again."""
    decisive = config.without_resumable(config.to_dict(settings))
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{Path(spec.partition(':')[0]).stem}-{digest[:8]}"


def run(settings: Config, folder: Path, stop: StopRequest | None = None) -> dict[str, Any]:
    """Train as configured, or resume what the folder holds, and return what summary.json says.

    With `baseline`, the same model is then trained from random weights under `folder/scratch` and both are
    compared. `stop` is the caller's, who makes several runs; without one the run listens for signals itself.

    Raises:
        UserError: another process owns the folder, it belongs to another configuration, or configuration,
            data and weights do not fit.
    """
    live = Live()
    with owner.owned(folder, live.log):
        return _run(settings, folder, live, stop)


def _run(settings: Config, folder: Path, live: Live, stop: StopRequest | None) -> dict[str, Any]:
    live.log(f"run folder: {folder}")
    result = _finished(settings, folder, live) or _train(settings, folder, live, stop)
    if not settings.baseline or result["status"] not in FINISHED:
        return result
    scratch = replace(settings, baseline=False, model=replace(settings.model, weights=NO_WEIGHTS))
    other = run(scratch, folder / "scratch", stop)
    if other["status"] not in FINISHED:
        return {**result, "status": other["status"]}
    live.log(tables.comparison({"pretrained": result, "from scratch": other}))
    return result


def _finished(settings: Config, folder: Path, live: Live) -> dict[str, Any] | None:
    """Return the summary of a finished run of this configuration, None where there is none yet.

    Raises:
        UserError: the folder holds something else.
    """
    if not (folder / config.NAME).exists():
        if folder.exists() and (not folder.is_dir() or not owner.is_free(folder)):
            raise UserError(
                f"{str(folder)!r} is not empty and no run folder (no config.json); give another --workdir"
            )
        return None
    changed = config.conflicts(settings, config.saved(folder))
    result = summary.read(folder / "summary.json") if (folder / "summary.json").exists() else None
    is_finished = result is not None and result["status"] in FINISHED
    if changed and _has_begun(folder):
        is_longer = is_finished and all(each.startswith(LENGTHS) for each in changed)
        cure = "give another --workdir, or repeat the command it was made with"
        if is_longer:
            cure += f"; to train its weights further: another --workdir and --config.model.weights={folder}"
        raise UserError(
            f"run folder {str(folder)!r} belongs to another configuration ({'; '.join(changed[:4])}); {cure}"
        )
    if changed:
        live.log(f"a run of other settings ({'; '.join(changed[:4])}) had not begun here: it is replaced")
    if result is None or not is_finished:
        return None
    live.log(f"this run is finished ({result['status']} at step {result['steps']}); nothing to do")
    return result


def _has_begun(folder: Path) -> bool:
    """Return whether there is more of a run than its settings: something that it did."""
    names = ("summary.json", "damaged", WEIGHTS_NAME)
    checkpoints = folder / "checkpoints"
    return any((folder / name).exists() for name in names) or (
        checkpoints.is_dir() and any(each.name.isdecimal() for each in checkpoints.iterdir())
    )


def _claim(
    plan: loop.Plan, splits: Mapping[str, Source], target: Target | None, notes: Sequence[str]
) -> None:
    """Write config.json and meta.json, once everything they name has been found to fit.

    Raises:
        UserError: the folder's checkpoints are of other training data, or other examples of the target.
    """
    folder = plan.folder
    described = meta.describe(plan.settings, plan.built, plan.stats, splits, target, notes)
    if (folder / "meta.json").exists() and (folder / "checkpoints").exists():
        meta.check_same(folder, described)
    folder.mkdir(parents=True, exist_ok=True)
    write_input_files(folder, plan.built.parts.input.files(plan.built.parts.preprocess))
    summary.write_json(folder / config.NAME, config.kept(plan.settings))
    summary.write_json(folder / "meta.json", described)


def _train(settings: Config, folder: Path, live: Live, asked: StopRequest | None) -> dict[str, Any]:
    live.log(config.text(settings))
    phases = Phases()
    with phases.measure("load"):
        ready, state, checkpoints = _prepare(settings, folder, live, phases)
    listening = signals.listening() if asked is None else nullcontext(asked)
    with at_end(checkpoints.close):
        with phases.measure("load"):
            state, history = _restored(ready, state, checkpoints)
        writer = Writer(folder, int(state.step))
        with at_end(writer.close):
            with listening as stop, stop.deferred():
                ended = loop.run(ready, state, history, checkpoints, writer, stop)
                with phases.measure("checkpoint"):
                    checkpoints.wait()
                if stop.number and ended.status in FINISHED:  # asked since its last step: the report can wait
                    ended = ended._replace(status="preempted")
                if ended.status not in FINISHED:
                    return _stopped(ready, ended)
            scores = _report(ready, ended, checkpoints, writer)
    result = _summarize(ready, ended, scores)
    summary.write_json(folder / "summary.json", result)
    curves.plot(folder / "metrics.jsonl", folder / "curves.png")
    return result


def _stopped(ready: Run, ended: Ended) -> dict[str, Any]:
    """Leave the summary of a run that is to go on."""
    number = int(ended.state.step)
    ready.reporter.live.log(
        f"stopped at step {number} and saved; repeat the command to go on"
        if number
        else "stopped before the first step; repeat the command"
    )
    result = _summarize(ready, ended, {})
    summary.write_json(ready.plan.folder / "summary.json", result)
    return result


class _Opened(NamedTuple):
    """The readable examples of each split, another domain's, and what there is to say of them."""

    splits: dict[str, Source]
    target: Target | None
    notes: list[str]


def _prepare(settings: Config, folder: Path, live: Live, phases: Phases) -> tuple[Run, State, Checkpoints]:
    """Open the data, build the model, show what will train; return the run, its first state and checkpoints.

    Where there is a checkpoint, that state lacks what the strategy learns of the training examples: it is
    in the checkpoint.
    """
    mesh = sharding.mesh(settings.sharding)
    build.check_batch(settings, mesh.size)
    opened = _open(settings, live)
    splits, target = opened.splits, opened.target
    stats = build.label_stats(settings, splits["train"])
    built = build.build(settings, stats, build.num_steps(settings, len(splits["train"])))
    streams = {TRAIN: splits["train"]} | ({} if target is None else {TARGET: target.stream})
    build.check_streams(settings, built.parts, streams)
    notes = [*opened.notes, *_explained(built, splits, live)]
    live.log(tables.freeze_table(meta.freeze_rows(built, settings)))
    plan = loop.Plan(settings, folder, stats, built, _monitor(settings, built, splits, target))
    feed = _feed(plan, mesh, splits, streams, target)
    build.check_first_examples(built.parts, streams, splits)
    _claim(plan, splits, target, notes)
    is_maximized = plan.task_kind.is_maximized(plan.monitor)
    checkpoints = Checkpoints(folder / "checkpoints", is_maximized=is_maximized)
    if not checkpoints.steps():
        plan = plan._replace(built=evaluate.prepared(built, splits["train"], settings, mesh))
    state, state_sharding = build.initial_state(plan.built, settings, mesh)
    parts = plan.built.parts
    programs = loop.Programs(mesh, state_sharding, step.make_eval_step(parts), step.make_output_step(parts))
    return Run(plan, feed, programs, loop.Reporter(live, phases)), state, checkpoints


def _explained(built: Built, splits: dict[str, Source], live: Live) -> list[str]:
    """Say what was loaded and how examples are read; return what of it the run folder keeps."""
    parts = built.parts
    if built.loaded is not None:
        live.log(built.loaded.report.text())
    notes = [
        build.preprocess_text(parts.input, parts.preprocess, built.loaded),
        *parts.input.remarks(parts.model.preprocess, parts.preprocess),
        *preflight.survey(splits, parts.input, parts.preprocess),
    ]
    for line in notes:
        live.log(line)
    # The report above says these too.
    return [*([] if built.loaded is None else built.loaded.report.remarks()), *notes]


def _feed(
    plan: loop.Plan,
    mesh: Mesh,
    splits: dict[str, Source],
    streams: dict[str, Source],
    target: Target | None,
) -> loop.Feed:
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
    return loop.Feed(
        splits=splits,
        streams=streams,
        target=target,
        eval_batches={name: batches_of(source) for name, source in splits.items() if name != "train"},
        target_batches=None if target is None or not is_measured else batches_of(target.evaluation),
    )


def _open(settings: Config, live: Live) -> _Opened:
    """Open the data, and say what is in it."""
    splits = build.open_splits(settings)
    about = next(iter(splits.values())).info
    target = build.open_target(settings, about.label_names, about.reading)
    others = {} if target is None else {TARGET: target.stream, TARGET_TEST: target.evaluation}
    if target is not None and target.evaluation is target.stream:
        del others[TARGET_TEST]
    kind = config.input_of(settings.model)
    checked = preflight.inspect({**splits, **others}, settings.data, kind)
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
    return _Opened(found, target, notes)


def _monitor(settings: Config, built: Built, splits: Mapping[str, Source], target: Target | None) -> str:
    """Return the metric that picks the best step: one without labels where the run adapts to a target.

    Raises:
        UserError: there is no metric of the name the settings give, nothing to measure it on, or it would
            choose by labels of the target.
    """
    kind = TASKS[settings.task.name]
    criteria = adaptation.CRITERIA if target is not None and build.has_classes(settings) else ()
    is_adapting = bool(built.parts.strategy.streams) and bool(criteria)
    chosen = settings.train.monitor or (adaptation.IM if is_adapting else kind.monitor)
    if chosen in criteria:
        _check_criterion(chosen, target)
        return chosen
    if chosen.startswith(adaptation.PREFIX):
        raise UserError(
            f"train.monitor is {chosen!r}; expected a metric of the validation split, or of a target "
            f"(config.data.target) with classes one that needs no labels: {', '.join(adaptation.CRITERIA)}"
        )
    if "val" not in splits and (settings.train.patience or settings.train.monitor):
        raise UserError(
            "train.patience and train.monitor need a validation split; set data.val_fraction above 0"
        )
    if chosen not in kind.maximized:
        raise UserError(
            f"train.monitor {chosen!r} is no metric of this task; nearest: {nearest(chosen, kind.maximized)}"
        )
    return chosen


def _check_criterion(chosen: str, target: Target | None) -> None:
    assert target is not None, "criteria are of a target"
    if chosen == adaptation.SND and len(target.evaluation) < adaptation.MIN_NEIGHBOURS:
        raise UserError(
            f"train.monitor is {chosen!r} and config.data.target has {len(target.evaluation)} example to "
            f"measure, which has no neighbours; expected {adaptation.MIN_NEIGHBOURS} or more: add some, or "
            f"set train.monitor={adaptation.IM!r}"
        )


def _restored(ready: Run, state: State, checkpoints: Checkpoints) -> tuple[State, progress.History]:
    """Return the newest sound checkpoint's state and history, or those of a new run."""
    restored = checkpoints.restore(_like(state), ready.reporter.live.log)
    if restored is None:
        return state, []
    ready.reporter.live.log(f"resumed at step {restored.step} of {ready.plan.built.parts.num_steps}")
    return restored.state, restored.meta["history"]


def _like(state: State) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def _report(ready: Run, ended: Ended, checkpoints: Checkpoints, writer: Writer) -> dict[str, Any]:
    """Measure the best step on every split that is not for training; write weights, tables and plots."""
    best = progress.best(
        ended.history, ready.plan.monitor, is_maximized=ready.plan.task_kind.is_maximized(ready.plan.monitor)
    )
    state = ended.state
    if best is not None and best["step"] != int(state.step):
        try:
            state = checkpoints.restore_step(int(best["step"]), _like(state)).state
        except UserError as error:
            ready.reporter.live.log(f"{error}; the last step is reported and exported in its place")
    params = jax.device_get(states.params_for_evaluation(state))
    merged = ready.plan.built.parts.strategy.merged(params)
    write_run_weights(ready.plan.folder, merged, jax.device_get(state.model_state))
    scores: dict[str, Any] = {"step": int(state.step)}
    for split in ready.feed.eval_batches:
        found = loop.evaluated(ready, state, split)
        scores |= {f"{split}/{name}": value for name, value in found.scalars.items()}
        ready.reporter.live.log(
            f"{split}, step {int(state.step)}:\n{tables.final_table(found, ready.plan.stats.label_names)}"
        )
        result = {"split": split, "num_examples": len(ready.feed.splits[split]), "metrics": found.scalars}
        evaluate.write(ready.plan.folder / split, result, found, ready.plan.stats.label_names)
    final = {name: value for name, value in scores.items() if name.startswith(FINAL_PREFIX)}
    if final:
        writer.scalars(int(state.step), final)
    return scores


def _summarize(ready: Run, ended: Ended, best: Mapping[str, Any]) -> dict[str, Any]:
    last = ended.history[-1] if ended.history else {}
    return summary.build(
        status=ended.status,
        steps=int(ended.state.step),
        final=adaptation.scalars(last),
        best=dict(best),
        phases=ready.reporter.phases,
        num_examples=ended.num_examples,
        unit=ready.plan.built.parts.input.unit,
        parameters=meta.parameters(ready.plan.built),
        weights=meta.source(ready.plan.built),
        digest=tree.sha256(jax.device_get(tree.merge(ended.state.trainable, ended.state.frozen))),
        peak_memory_bytes=ready.reporter.live.peak_memory_bytes(),
        target=None if ready.feed.target is None else _outcome(ready, ended),
    )


def _outcome(ready: Run, ended: Ended) -> dict[str, Any]:
    found = adaptation.outcome(ended.history, ready.plan.monitor, ready.plan.task_kind)
    if ended.status in FINISHED and found:
        ready.reporter.live.log(adaptation.table(found))
    return found
