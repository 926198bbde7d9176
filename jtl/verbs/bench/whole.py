"""A run measured whole: its feed alone, its step alone, and its loop, which is both and the host's work."""

import io
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError, at_end
from jtl.verbs.bench import measure
from jtl.verbs.bench.measure import Length, Tick
from jtl.verbs.bench.program import Program

if TYPE_CHECKING:
    import jtl.training.config
    import jtl.training.ready
    import jtl.training.state


def measured(settings: "jtl.training.config.Config", folder: Path, length: Length) -> dict[str, Any]:
    """Return what a record says of feed, step and loop; `folder` takes what the run writes.

    Raises:
        UserError: the configuration cannot be run.
    """
    import jax
    import numpy as np

    from jtl.report.console import Live, peak_process_bytes
    from jtl.report.summary import Phases
    from jtl.training import dispatch, features, meta, preparation
    from jtl.verbs.bench import program, subject

    # That is a run of its own, beside this one.
    settings, notes = _with_data(replace(settings, baseline=False), folder)
    phases = Phases()
    sys.stderr.write("bench: opening data and model\n")
    with phases.measure("load"):
        ready, state, checkpoints = preparation.prepare(settings, folder / "run", Live(io.StringIO()), phases)
    with at_end(ready.feed.close), at_end(checkpoints.close), program.own_cache():
        about = {"dtype": subject.dtype_of(ready.plan.built), "parameters": meta.parameters(ready.plan.built)}
        with phases.measure("load"):
            ready, state = features.begun(ready, state)
        ready, more = _long_enough(ready, length)
        # Steps take the place of what they are given.
        first = jax.tree.map(np.array, state)
        made, alone, step_about = _step(ready, state, length, about["dtype"])
        del state
        step_peak = peak_process_bytes()
        sys.stderr.write("bench: the feed alone\n")
        batches = dispatch.device_batches(ready, 0)
        with at_end(batches.close):
            fed = measure.feed_alone(batches, length, wait=jax.block_until_ready)
        sys.stderr.write("bench: the loop\n")
        ticks = measure.loop(
            ready, jax.device_put(first, ready.programs.state_sharding), length, folder / "loop"
        )
    size = ready.plan.settings.train.batch_size
    return {
        **about,
        **step_about,
        "notes": [*notes, *ready.frozen.lines, *more, *step_about["notes"]],
        "unit": ready.plan.built.parts.input.unit,
        "seconds": {
            "load": phases.seconds["load"],
            "compile": made.cold_seconds,
            "compile_cached": made.cached_seconds,
        },
        "feed": _part(measure.spread(measure.parts(fed, length)), size),
        "step": _part(measure.spread(measure.parts(alone.seconds, length)), size)
        | {"dispatch_seconds": measure.percentile(alone.dispatch[length.warmup :], 0.5)},
        "loop": looped(ticks, measure.percentile(alone.seconds[length.warmup :], 0.5), length, size),
        "memory": step_about["memory"]
        | {
            "host_peak_after_step": step_peak,
            "host_peak": peak_process_bytes(),
            "device_peak": _device_peak(),
        },
    }


def looped(ticks: list[Tick], step_seconds: float, length: Length, batch_size: int) -> dict[str, Any]:
    """Return what a record says of the loop, beside a step by itself of so many seconds.

    What the loop adds is its step without the wait for data less the step by itself: on a CPU also what the
    feed takes of the processor.
    """
    # The first interval ends with the second step.
    behind = length._replace(warmup=max(0, length.warmup - 1))
    runs = measure.parts(measure.per_step(ticks), behind)
    counted = [each for run in runs for each in run]
    total, waited = (sum(getattr(each, name) for each in counted) for name in ("training", "waited"))
    added = statistics.median(each.training - each.waited for each in counted) - step_seconds
    return _part(measure.spread([[each.training for each in run] for run in runs]), batch_size) | {
        "wait_seconds": waited / len(counted),
        "wait_fraction": waited / total if total else 0.0,
        "host_seconds": statistics.median(each.host for each in counted),
        "added_seconds": added,
        "added_fraction": added / step_seconds,
    }


def _part(spread: dict[str, Any], batch_size: int) -> dict[str, Any]:
    return {"seconds": spread, "examples_per_second": batch_size / spread["median"]}


def _with_data(
    settings: "jtl.training.config.Config", folder: Path
) -> tuple["jtl.training.config.Config", list[str]]:
    """Return the settings with data that can be opened, and what is to be said of it."""
    from jtl.training import build
    from jtl.verbs.bench import stand_in

    if settings.data.path:
        return settings, []
    try:
        build.open_splits(settings)
    except UserError as error:
        files = folder / "data"
        files.mkdir()
        settings, said = stand_in.with_data(settings, files)
        return settings, [f"data.path is empty ({error}): {said}"]
    return settings, []


def _long_enough(
    ready: "jtl.training.ready.Run", length: Length
) -> tuple["jtl.training.ready.Run", list[str]]:
    """Return a run that has the steps to measure, and two more, and a line where it had not."""
    parts, needed = ready.plan.built.parts, length.total + 2
    if parts.num_steps >= needed:
        return ready, []
    built = ready.plan.built._replace(parts=parts._replace(num_steps=needed))
    said = f"the run has {parts.num_steps} steps and {needed} are measured: its schedule ends before"
    return ready._replace(plan=ready.plan._replace(built=built)), [said]


def _step(
    ready: "jtl.training.ready.Run",
    state: "jtl.training.state.State",
    length: Length,
    dtype: str,
) -> tuple[Program, Any, dict[str, Any]]:
    """Compile the run's first step and time it by itself, on its first batch."""
    import jax

    from jtl.signals import StopRequest
    from jtl.strategies.contract import TRAIN
    from jtl.training import dispatch, optim, sharding, step
    from jtl.verbs.bench import peaks, program

    batches = dispatch.device_batches(ready, 0)
    with at_end(batches.close):
        # With one core XLA compiles in the thread that would work on these, and neither ends (jaxlib 0.10.2).
        batch = jax.block_until_ready(next(batches))
    jax.block_until_ready(state)
    sys.stderr.write("bench: compiling the step, cold and from the cache\n")
    stop = StopRequest()
    made = program.compiled(partial(_compiled, ready, stop, state, batch))
    parts, mesh = ready.plan.built.parts, ready.programs.mesh
    jitted = step.make_train_step(parts, 0, ready.programs.state_sharding, sharding.of_batch(mesh))
    flops = program.flops(jitted.lower(state, batch), made.call, mesh.size)
    shapes = [list(leaf.shape) for leaf in jax.tree.leaves(batch[TRAIN]["inputs"])]
    memory = {"compiled": program.memory_of(made.call)}
    sys.stderr.write("bench: the step alone\n")
    alone = measure.steps_alone(made.call, state, batch, length, wait=jax.block_until_ready)
    phases = optim.phases(parts.groups)
    later = f"the step of the first of {len(phases)} phases is measured; later ones train more"
    seconds = measure.percentile(alone.seconds[length.warmup :], 0.5)
    about = {
        "shape": shapes[0],
        "notes": [later] if len(phases) > 1 else [],
        "flops": peaks.used(flops, seconds, dtype, mesh.size),
        "memory": memory,
    }
    return made, alone, about


def _compiled(
    ready: "jtl.training.ready.Run", stop: Any, state: "jtl.training.state.State", batch: Any
) -> Any:
    from jtl.training import dispatch

    return dispatch.Dispatches(ready, stop).program(0, state, batch)


def _device_peak() -> int:
    """Return the most bytes that one device held, 0 where devices do not say."""
    import jax

    stats = [found for device in jax.local_devices() if (found := device.memory_stats())]
    return max((each.get("peak_bytes_in_use", 0) for each in stats), default=0)
