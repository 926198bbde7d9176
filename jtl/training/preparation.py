"""What stands before a run's first step: data opened, model built, all that was decided said and claimed."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jtl import distributed, runtime
from jtl.data import Source, preflight, rotated
from jtl.errors import UserError
from jtl.report import tables
from jtl.report.console import Live
from jtl.report.summary import Phases
from jtl.strategies.contract import TARGET, UNLABELLED
from jtl.training import (
    budget,
    build,
    choice,
    claim,
    config,
    dispatch,
    evaluate,
    frozen,
    grid,
    lost,
    meta,
    mirror,
    precision,
    rehearsal,
    remarks,
    routes,
    seen,
    sharding,
    slices,
    solve,
    starting,
    step,
    streams,
)
from jtl.training.build import Built, Target
from jtl.training.checkpoint import Checkpoints
from jtl.training.config import Config
from jtl.training.mirror import Mirror
from jtl.training.ready import Feed, Plan, Programs, Reporter, Run
from jtl.training.routes import Routed
from jtl.training.state import State
from jtl.weights.contract import NO_WEIGHTS
from jtl.weights.run_folder import CHECKPOINTS_NAME

TARGET_TEST, SCRATCH = "target_test", "scratch"


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
    budget.check(settings, built)
    built, said = evaluate.fitted(built, settings, opened.facts)
    beside = streams.named(target, unlabelled)
    streams.check(settings, built.parts, beside)
    sources = streams.of_batches(built.parts, splits["train"], beside)
    rotated.check(settings.data, built.parts.input.spec(built.parts.preprocess))
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
    routed = routes.said(plan, sources, mesh, live.log, is_passed_once=is_once)
    feed = _feed(plan, mesh, splits, routed, target)
    dispatch.check(settings.train.steps_per_dispatch, feed, built.parts.input.unit, is_kept=is_once)
    every, told = dispatch.eval_every(settings, len(splits["train"])), [*notes, *routed.lines()]
    distributed.told(f"{folder} lost", lambda: lost.check(folder, settings.train, every))
    held = {**splits, **streams.named(None, unlabelled)}
    distributed.told(f"{folder} claim", lambda: claim.begun(plan, held, target, told, routed.name))
    checkpoints = _checkpoints(plan, step.unmoved(built.parts, shapes), copy)
    if not distributed.told(f"{folder} steps", checkpoints.steps):
        plan = plan._replace(built=evaluate.prepared(built, splits["train"], settings, mesh))
    distributed.meet(f"{folder} prepared")
    state, state_sharding = build.initial_state(grid.widened(plan.built, settings), settings, mesh)
    programs = _programs(plan, mesh, state_sharding)
    return Run(plan, feed, programs, Reporter(live, phases), cut), state, checkpoints


def scratch(settings: Config) -> Config:
    """Return the settings of the run beside it, of the same model from random weights."""
    found = replace(settings, baseline=False, model=replace(settings.model, weights=NO_WEIGHTS))
    return mirror.below(found, SCRATCH)


def _checkpoints(plan: Plan, still: Collection[str], copy: Mirror | None) -> Checkpoints:
    return Checkpoints(
        plan.folder / CHECKPOINTS_NAME,
        metric=plan.monitor,
        is_maximized=plan.task_kind.is_maximized(plan.monitor),
        still=still,
        **({} if copy is None else {"saved": copy.saved}),
    )


def _programs(plan: Plan, mesh: Mesh, state_sharding: Any) -> Programs:
    parts = plan.built.parts
    compiled = (step.make_eval_step(parts), step.make_output_step(parts))
    whole = (sharding.with_whole_results(each, mesh) for each in compiled)
    return Programs(mesh, state_sharding, *whole)


def _rehearse_scratch(settings: Config, opened: _Opened) -> None:
    try:
        rehearsal.check(scratch(settings), opened.splits, opened.target, opened.unlabelled)
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
