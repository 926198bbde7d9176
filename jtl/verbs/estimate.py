"""The verb `jtl estimate`: what a configuration needs, from its compiled program, without running it.

Nothing is read of data and weights but what tells the model, and no parameter takes memory: the program is
compiled for shapes. Memory is what the compiler of this machine's devices plans for.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs.bench.subject import Subject
from jtl.verbs.contract import Overrides, Verb, override_words, say_next, show

if TYPE_CHECKING:
    import jtl.training.config

GIB = 2**30
# What a well-made training step reaches of a device's peak, in published runs of ViTs: 0.3 to 0.5.
USUAL_SHARE = 0.4
# A search ends at a batch that is known to fit and is this part of one that does not.
CLOSE_ENOUGH = 0.9
MAX_COMPILED = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="what to estimate, such as vit_ft.py:ti16"
    )
    parser.add_argument("--length", type=int, default=0, metavar="N", help="of texts, in tokens")
    parser.add_argument(
        "--memory", type=float, default=0.0, metavar="GIB", help="of a device (default: of those here)"
    )
    parser.add_argument(
        "--no-search", action="store_true", help="leave out the largest batch, which compiles a few times"
    )
    parser.epilog = "Another batch: --config.train.batch_size=64"


def run(
    *, config: str, length: int = 0, memory_gib: float = 0.0, searches: bool = True, overrides: Overrides = ()
) -> dict[str, Any]:
    """Compile the training step in which most trains, and return what it needs.

    Raises:
        UserError: the configuration cannot be built, or not even a batch of one example a device fits.
    """
    import jax

    from jtl import memory
    from jtl.training import config as configs
    from jtl.verbs.bench import bench, record

    if memory_gib < 0:
        raise UserError(f"--memory is {memory_gib:g}; expected GiB of a device, or 0: of those here")
    settings = bench.of_length(configs.read(config, overrides), length)
    num_devices = settings.sharding.devices or jax.device_count()
    here = memory.device_bytes() // jax.device_count()
    limit = round(memory_gib * GIB) or here
    with tempfile.TemporaryDirectory(prefix="jtl-estimate-", ignore_cleanup_errors=True) as folder:
        settings, found, notes = built(settings, Path(folder))
        result = {
            **record.described(settings),
            "device": f"{num_devices} x {jax.devices()[0].device_kind}",
            "device_bytes": limit,
            **needs(found),
            "notes": notes,
        }
        result["fits"] = result["memory"]["total"] <= limit
        if searches:
            result["largest_batch_size"] = largest_batch(
                lambda size: _bytes_of(settings, size),
                {settings.train.batch_size: result["memory"]["total"]},
                limit,
                multiple=num_devices * settings.optim.accumulate,
            )
    sys.stderr.write(_text(result))
    return result


def largest_batch(
    bytes_of: Callable[[int], int], known: dict[int, int], limit: int, *, multiple: int = 1
) -> int:
    """Return the largest batch found that needs no more than `limit` bytes; 0 where none was.

    `bytes_of(size)` compiles, so few sizes are asked for: memory grows nearly linearly, and each guess is
    made by the line through what is known. `known` are sizes whose bytes are known already.

    >>> largest_batch(lambda size: 100 + 10 * size, {8: 180}, 1000, multiple=8)
    88
    """
    sizes = dict(known)
    for _ in range(MAX_COMPILED):
        guess = _guess(sizes, limit, multiple)
        if guess in sizes or guess < multiple:
            break
        sizes[guess] = bytes_of(guess)
    return max((size for size, needed in sizes.items() if needed <= limit), default=0)


def _guess(sizes: dict[int, int], limit: int, multiple: int) -> int:
    """Return the next size to ask for: where the line through two known ones meets the limit."""
    if len(sizes) == 1:
        (size, needed), *_ = sizes.items()
        other = 2 * size if needed <= limit else size // 2
        return max(multiple, other // multiple * multiple)
    fitting = [size for size, needed in sizes.items() if needed <= limit]
    failing = [size for size, needed in sizes.items() if needed > limit]
    if fitting and failing and max(fitting) >= CLOSE_ENOUGH * min(failing):
        return max(fitting)
    (low, low_bytes), (high, high_bytes) = (
        sorted(sizes.items())[-2:] if fitting else sorted(sizes.items())[:2]
    )
    slope = max(1e-9, (high_bytes - low_bytes) / (high - low))
    wanted = int(low + (limit - low_bytes) / slope) // multiple * multiple
    low_end, high_end = max(fitting, default=0), min(failing, default=2**31)
    # A line that misses what is known already gives way to the middle.
    if fitting and failing and not low_end < wanted < high_end:
        wanted = (low_end + high_end) // 2 // multiple * multiple
    return wanted


def _without_weights(settings: "jtl.training.config.Config") -> "jtl.training.config.Config":
    """Return the settings with no weights: their values change no shape once the model is known."""
    from jtl.weights.contract import NO_WEIGHTS

    weights = type(settings.weights)()
    return replace(settings, model=replace(settings.model, weights=NO_WEIGHTS), weights=weights)


def built(
    settings: "jtl.training.config.Config", folder: Path
) -> tuple["jtl.training.config.Config", Subject, list[str]]:
    """Return the configuration built without values, and with those of its weights where it cannot be.

    Files that stand in for its own lie in `folder`; the lines say what was read after all.
    """
    from jtl.verbs.bench import stand_in, subject
    from jtl.weights.contract import NO_WEIGHTS

    bare = stand_in.with_tokenizer(_without_weights(settings), folder)
    try:
        return bare, subject.subject(bare, has_values=False), []
    except UserError as error:
        if settings.model.weights == NO_WEIGHTS:
            raise
        found = subject.subject(settings)
        return settings, found, [f"weights were read, since without them: {error}"]


def needs(found: Subject) -> dict[str, Any]:
    """Return parameters, bytes and FLOPs of the step, and the least seconds where the peak is known."""
    import jax

    from jtl.training import meta, sharding
    from jtl.verbs.bench import exchanges, peaks, program, subject

    shapes, place = subject.state_shapes(found)
    lowered, made = compiled(found, shapes, place)
    flops = program.flops(lowered, made, found.mesh.size)
    dtype = subject.dtype_of(found.built)
    peak = peaks.known(jax.devices()[0].device_kind, dtype)
    least = None if peak is None else flops.asked / (peak.flops * found.mesh.size)
    return {
        "dtype": dtype,
        "parameters": meta.parameters(found.built),
        "state_bytes": sharding.bytes_a_device(shapes, place),
        "memory": program.memory_of(made),
        "flops": {"step": flops.asked, "step_compiled": flops.compiled},
        "exchanged": exchanges.summed(exchanges.of_text(made.as_text(), found.mesh.size)),
        "seconds_at_peak": least,
        "seconds_usual": None if least is None else least / USUAL_SHARE,
        "unit": found.parts.input.unit,
        "num_outputs": found.parts.task.head.num_outputs,
    }


def _bytes_of(settings: "jtl.training.config.Config", size: int) -> int:
    """Return what the step needs of a device at another size of a batch."""
    from jtl.verbs.bench import program, subject
    from jtl.weights.contract import NO_WEIGHTS

    has_values = settings.model.weights != NO_WEIGHTS
    try:
        found = subject.subject(subject.with_batch_size(settings, size), has_values=has_values)
    except UserError:
        # The batch by itself is more than there is.
        return 2**62
    _, made = compiled(found, *subject.state_shapes(found))
    return program.memory_of(made)["total"]


def compiled(found: Any, shapes: Any, place: Any) -> tuple[Any, Any]:
    """Return the step of the last phase, in which most trains, lowered and compiled for shapes."""
    from jtl import signals
    from jtl.training import optim, sharding, step
    from jtl.verbs.bench import subject

    phase = optim.phases(found.parts.groups)[-1]
    jitted = step.make_train_step(found.parts, phase, place, sharding.of_batch(found.mesh))
    lowered = jitted.lower(shapes, subject.batch_shapes(found))
    return lowered, signals.interruptibly(lowered.compile)


def _text(result: dict[str, Any]) -> str:
    from jtl.memory import text as bytes_text

    needed = {name: bytes_text(value) for name, value in result["memory"].items()}
    limit = bytes_text(result["device_bytes"])
    rows = [
        *(("note", note) for note in result["notes"]),
        ("model", f"{result['model']}, strategy {result['strategy']}, {result['dtype']}"),
        ("device", result["device"]),
        ("parameters", "{total:,}, {trainable:,} train".format(**result["parameters"])),
        ("outputs", f"{result['num_outputs']} (those of the data are not asked)"),
        ("state a device", bytes_text(result["state_bytes"])),
        (
            "memory a device",
            f"{needed['total']} of {limit}: {needed['arguments']} arguments, {needed['temporary']} temporary",
        ),
        ("fits", "yes" if result["fits"] else "no"),
        ("FLOPs", f"{result['flops']['step'] / 1e9:,.2f} GFLOP a step of {result['batch_size']}"),
    ]
    rows += [
        (f"{kind}s", f"{found['num']} a step, {bytes_text(round(found['moved_bytes']))} sent by a device")
        for kind, found in result["exchanged"].items()
    ]
    if result["seconds_at_peak"] is not None:
        said = f"{1e3 * result['seconds_usual']:,.1f} ms at {USUAL_SHARE:.0%} of the peak"
        rows.append(("seconds a step", f"{said}, at least {1e3 * result['seconds_at_peak']:,.1f} ms"))
    if "largest_batch_size" in result:
        rows.append(("largest batch", f"{result['largest_batch_size'] or 'none fits'}"))
    return "".join(f"{name:>18}  {value}\n" for name, value in rows)


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    found = run(
        config=args.config,
        length=args.length,
        memory_gib=args.memory,
        searches=not args.no_search,
        overrides=overrides,
    )
    show(args, found)
    say_next(*_following(args, overrides, found))
    return 0


def _following(args: argparse.Namespace, overrides: Overrides, found: dict[str, Any]) -> list[list[str]]:
    """Return the commands that come next: the measurement of what was estimated, at a batch that fits."""
    size = "train.batch_size"
    lengths = ["--length", str(args.length)] if args.length else []
    batch = found["batch_size"] if found["fits"] else found.get("largest_batch_size", 0)
    same = ["--config", args.config, *override_words(overrides, without=size)]
    if not batch:
        return []
    measured = ["jtl", "bench", *same, f"--config.{size}={batch}", *lengths]
    largest = found.get("largest_batch_size", 0)
    sizes = f"batch_size={batch},{largest}"
    swept = ["jtl", "bench", *same, *lengths, "--sweep", sizes]
    return [measured, *([swept] if largest > batch else [])]


VERB = Verb("say what a configuration needs of memory and FLOPs, without running it", add_arguments, _command)
