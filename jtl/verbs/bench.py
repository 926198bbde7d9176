"""`jtl bench`: what one training step of a configuration costs, on random images of its size.

Nothing is read from disk but the weights; compilation and the steady state are measured apart.
"""

import argparse
import importlib.metadata
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs.contract import Overrides, Verb, show

if TYPE_CHECKING:
    import numpy

    import jtl.training.build

NUM_CLASSES = 10
WARMUP_STEPS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="what to time, such as vit_ft.py:ti16"
    )
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="steps to time after two of warm-up"
    )
    parser.epilog = "Random weights: --config.model.weights=none. Other sizes: --config.train.batch_size=64"


def run(*, config: str, num_steps: int, overrides: Overrides = ()) -> dict[str, Any]:
    """Time training steps and return seconds, images a second, and the compiled FLOPs and memory.

    `step_seconds` is the median over the steps, each waited for; `gflop_per_step` and `temp_bytes` are what
    the compiler counted.

    Raises:
        UserError: the task does not have classes, or fewer than one step is asked for.
    """
    import jax
    import numpy as np

    from jtl.tasks import TASKS
    from jtl.training import build, sharding, step
    from jtl.training import config as configs

    settings = configs.read(config, overrides)
    if num_steps < 1:
        raise UserError(f"--steps is {num_steps}; expected 1 or more")
    if TASKS[settings.task.name].label_kind != "class":
        raise UserError(f"jtl bench needs a task with classes; found task.name {settings.task.name!r}")
    labels = np.arange(settings.train.batch_size) % NUM_CLASSES
    stats = TASKS[settings.task.name].stats(np.arange(NUM_CLASSES), tuple(map(str, range(NUM_CLASSES))))
    built = build.build(settings, stats, steps=WARMUP_STEPS + num_steps)
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
    for _ in range(WARMUP_STEPS + num_steps):
        began = time.perf_counter()
        state, values = compiled(state, batch)
        jax.block_until_ready((state, values))
        seconds.append(time.perf_counter() - began)
    result = {
        "model": f"{settings.model.name} {settings.model.size}",
        "strategy": settings.strategy.name,
        "dtype": settings.model.dtype,
        **_result(built, compiled, len(labels), seconds[WARMUP_STEPS:], compile_seconds),
    }
    sys.stderr.write("".join(f"{name:>18}  {value}\n" for name, value in result.items()))
    return result


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    show(args, run(config=args.config, num_steps=args.steps, overrides=overrides))
    return 0


def _batch(built: "jtl.training.build.Built", labels: "numpy.ndarray") -> dict[str, Any]:
    import numpy as np

    preprocess = built.parts.preprocess
    shape = (len(labels), *preprocess.image_px, preprocess.num_channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return {"image": images, "label": labels, "mask": np.ones(len(labels), bool)}


def _result(
    built: "jtl.training.build.Built",
    compiled: Any,
    batch_size: int,
    seconds: list[float],
    compile_seconds: float,
) -> dict[str, Any]:
    import jax

    from jtl.training import meta

    median = statistics.median(seconds)
    return {
        "batch_size": batch_size,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": importlib.metadata.version("jax"),
        "trainable": meta.parameters(built)["trainable"],
        "compile_seconds": round(compile_seconds, 3),
        "step_seconds": round(median, 4),
        "step_seconds_min": round(min(seconds), 4),
        "step_seconds_max": round(max(seconds), 4),
        "images_per_second": round(batch_size / median, 2),
        "gflop_per_step": round(compiled.cost_analysis()["flops"] / 1e9, 2),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


VERB = Verb("time the training step of a configuration", add_arguments, _command)
