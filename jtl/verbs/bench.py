"""`jtl bench`: what one training step of a configuration costs, on random inputs of its size.

Nothing is read from disk but the weights; compilation and the steady state are measured apart.
"""

import argparse
import importlib.metadata
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs.contract import Overrides, Verb, check_at_least, show

if TYPE_CHECKING:
    import jtl.training.build
    import jtl.training.step

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
    parser.add_argument(
        "--length", type=int, default=0, metavar="N", help="of texts, in tokens (default: the longest bucket)"
    )
    parser.epilog = "Random weights: --config.model.weights=none. Other sizes: --config.train.batch_size=64"


def run(*, config: str, num_steps: int, length: int = 0, overrides: Overrides = ()) -> dict[str, Any]:
    """Time training steps and return seconds, examples a second, and the compiled FLOPs and memory.

    `length` is that of the examples where they differ in length (0: the longest of `inputs.buckets`).
    `step_seconds` is the median over the steps, each waited for; `gflop_per_step` and `temp_bytes` are what
    the compiler counted.

    Raises:
        UserError: the task does not have classes, fewer than one step is asked for, or a length that no
            batch of the model has.
    """
    import jax
    import numpy as np

    from jtl.inputs.contract import leaves_of
    from jtl.strategies.contract import TRAIN
    from jtl.tasks import TASKS
    from jtl.training import build, sharding, step
    from jtl.training import config as configs

    settings = configs.read(config, overrides)
    check_at_least("--steps", num_steps)
    if TASKS[settings.task.name].label_kind != "class":
        raise UserError(f"jtl bench needs a task with classes; found task.name {settings.task.name!r}")
    if length < 0:
        raise UserError(f"--length is {length}; expected 1 or more, or 0: the longest of inputs.buckets")
    stats = TASKS[settings.task.name].stats(np.arange(NUM_CLASSES), tuple(map(str, range(NUM_CLASSES))))
    built = build.build(settings, stats, steps=WARMUP_STEPS + num_steps)
    mesh = sharding.mesh(settings.sharding)
    build.check_batch(settings, mesh.size)
    state, place = build.initial_state(built, settings, mesh)
    batch = _batch(built.parts, length or settings.inputs.buckets[-1], settings.train.batch_size)
    shape = leaves_of(batch["inputs"])[0].shape
    _check_length(length, shape[1], built.parts.input.unit)
    streams = (TRAIN, *built.parts.strategy.streams)
    batch = sharding.put_batch(dict.fromkeys(streams, batch), mesh)
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
        "shape": list(shape),
        **_result(built, compiled, settings.train.batch_size, seconds[WARMUP_STEPS:], compile_seconds),
    }
    sys.stderr.write("".join(f"{name:>18}  {value}\n" for name, value in result.items()))
    return result


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    show(args, run(config=args.config, num_steps=args.steps, length=args.length, overrides=overrides))
    return 0


def _check_length(asked: int, found: int, unit: str) -> None:
    """Raise UserError unless a batch is as long as was asked (0: any length will do)."""
    if asked not in (0, found):
        raise UserError(
            f"--length is {asked}, and {unit} for this model are {found} long at that; expected 0, or a "
            f"length that they can have"
        )


def _batch(parts: "jtl.training.step.Parts", length: int, size: int) -> dict[str, Any]:
    """Return a batch of random inputs, `length` long where examples differ in that."""
    import jax
    import numpy as np

    random = np.random.default_rng(0)

    def drawn(leaf: Any) -> np.ndarray:
        # Pixels are any byte, ids 0 or 1, which every model knows; a mask hides nothing.
        low, high = (0, 256) if leaf.dtype == np.uint8 else (int(leaf.dtype == np.bool_), 2)
        return random.integers(low, high, leaf.shape).astype(leaf.dtype)

    spec = parts.input.spec(parts.preprocess)
    examples = [jax.tree.map(drawn, spec) for _ in range(size)]
    return {
        "inputs": parts.input.collate(examples, buckets=(length,), preprocess=parts.preprocess),
        "label": np.arange(size) % NUM_CLASSES,
        "mask": np.ones(size, bool),
        "id": np.arange(size),
    }


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
        f"{built.parts.input.unit}_per_second": round(batch_size / median, 2),
        "gflop_per_step": round(compiled.cost_analysis()["flops"] / 1e9, 2),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


VERB = Verb("time the training step of a configuration", add_arguments, _command)
