"""`jtl bench`: what one training step of a configuration costs, on random images of its size.

Nothing is read from disk but the weights; compilation and the steady state are measured apart.
"""

import importlib.metadata
import statistics
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl.errors import UserError
from jtl.tasks import TASKS
from jtl.training import build, meta, sharding, step
from jtl.training.config import Config

NUM_CLASSES = 10
WARMUP_STEPS = 2


class Request(NamedTuple):
    """What `jtl bench` was asked: a configuration, and how many steps to time."""

    settings: Config
    num_steps: int


def run(request: Request) -> dict[str, Any]:
    """Time training steps and return seconds, images a second, and the compiled FLOPs and memory.

    `step_seconds` is the median over the steps, each waited for; `gflop_per_step` and `temp_bytes` are what
    the compiler counted.

    Raises:
        UserError: the task does not have classes, or fewer than one step is asked for.
    """
    settings = request.settings
    if request.num_steps < 1:
        raise UserError(f"--steps is {request.num_steps}; expected 1 or more")
    if TASKS[settings.task.name].label_kind != "class":
        raise UserError(f"jtl bench needs a task with classes; found task.name {settings.task.name!r}")
    labels = np.arange(settings.train.batch_size) % NUM_CLASSES
    stats = TASKS[settings.task.name].stats(np.arange(NUM_CLASSES), tuple(map(str, range(NUM_CLASSES))))
    built = build.build(settings, stats, steps=WARMUP_STEPS + request.num_steps)
    mesh = sharding.mesh(settings.sharding)
    build.check_batch(settings, mesh.size)
    state, place = build.initial_state(built, settings, mesh)
    streams = (step.STREAM, *built.parts.strategy.streams)
    batch = sharding.put_batch({name: _batch(built, labels) for name in streams}, mesh)
    began = time.perf_counter()
    lowered = step.make_train_step(built.parts, 0, place, sharding.of_batch(mesh)).lower(state, batch)
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - began
    seconds = []
    for _ in range(WARMUP_STEPS + request.num_steps):
        began = time.perf_counter()
        state, values = compiled(state, batch)
        jax.block_until_ready((state, values))
        seconds.append(time.perf_counter() - began)
    result = _result(settings, built, compiled, seconds, compile_seconds)
    sys.stderr.write("".join(f"{name:>18}  {value}\n" for name, value in result.items()))
    return result


def _batch(built: build.Built, labels: np.ndarray) -> dict[str, np.ndarray]:
    preprocess = built.parts.preprocess
    shape = (len(labels), *preprocess.image_px, preprocess.num_channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return {"image": images, "label": labels, "mask": np.ones(len(labels), bool)}


def _result(
    settings: Config, built: build.Built, compiled: Any, seconds: list[float], compile_seconds: float
) -> dict[str, Any]:
    steady = seconds[WARMUP_STEPS:]
    median = statistics.median(steady)
    return {
        "model": f"{settings.model.name} {settings.model.size}",
        "strategy": settings.strategy.name,
        "dtype": settings.model.dtype,
        "batch_size": settings.train.batch_size,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": importlib.metadata.version("jax"),
        "trainable": meta.parameters(built)["trainable"],
        "compile_seconds": round(compile_seconds, 3),
        "step_seconds": round(median, 4),
        "step_seconds_min": round(min(steady), 4),
        "step_seconds_max": round(max(steady), 4),
        "images_per_second": round(settings.train.batch_size / median, 2),
        "gflop_per_step": round(compiled.cost_analysis()["flops"] / 1e9, 2),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }
