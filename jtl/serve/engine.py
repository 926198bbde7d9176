"""The model of a server: every program it may need compiled before the first request, each shape timed.

Batches are padded to a handful of sizes, and texts to a handful of lengths: powers of a factor. How many
items the next batch takes is decided by what these sizes were measured to give a second.
"""

import base64
import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from jtl import predictor as predictors
from jtl.explain import METHODS, examples, pictures, texts
from jtl.inputs import Inputs
from jtl.inputs.contract import map_leaves
from jtl.predictor import Predictor
from jtl.training import sharding

# Where examples differ in length, programs are one a size and length.
SIZE_FACTOR, LENGTH_FACTOR = 2, 4
MIN_LENGTH = 32
# How often each is timed: the shortest counts.
NUM_TIMED = 2
# The longer side of an explanation's picture.
OVERLAY_PX = 448


class Engine(NamedTuple):
    """A model that answers batches.

    `sizes` are those that batches are padded to, `lengths` those of their examples where these differ (else
    none), both rising. `predict` and `explain` are compiled steps of (values, inputs); `explain` is None
    where the model cannot be explained, and `method` says by what it is, or why not.
    """

    predictor: Predictor
    sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    predict: Callable[..., Any]
    explain: Callable[..., Any] | None
    method: str

    @property
    def num_programs(self) -> int:
        """How many programs are compiled at the start."""
        lengths = max(len(self.lengths), 1)
        return lengths * (len(self.sizes) + (self.explain is not None))


def of_model(predictor: Predictor, max_batch: int, *, is_program: bool = False) -> Engine:
    """Return the engine of a model with a task; `is_program` is one that only predicts, with no layers."""
    free = predictor.input.free_dims(predictor.preprocess)
    factor = LENGTH_FACTOR if free else SIZE_FACTOR
    offered = (
        [] if is_program else [name for name, each in METHODS.items() if each.is_offered(predictor.model)]
    )
    method = offered[0] if offered else ""
    return Engine(
        predictor=predictor,
        sizes=sizes_up_to(max_batch, predictor.mesh.size, factor),
        lengths=lengths_up_to(max(free.values()), factor) if free else (),
        predict=predictors.make_predict_step(predictor),
        explain=examples.make_step(predictor, method) if method else None,
        method=METHODS[method].source if method else _unexplained(is_program=is_program),
    )


def sizes_up_to(most: int, num_devices: int, factor: int) -> tuple[int, ...]:
    """Return the sizes of batches: powers of the factor and the most, in whole shares of the devices.

    >>> sizes_up_to(24, 1, 2), sizes_up_to(24, 8, 2), sizes_up_to(32, 1, 4)
    ((1, 2, 4, 8, 16, 24), (8, 16, 24), (1, 4, 16, 32))
    """
    found, size = {most}, 1
    while size < most:
        found.add(size)
        size *= factor
    return tuple(sorted({-(-each // num_devices) * num_devices for each in found}))


def lengths_up_to(most: int, factor: int) -> tuple[int, ...]:
    """Return the lengths of examples: the most, and by the factor less until it is short.

    >>> lengths_up_to(512, 4), lengths_up_to(100, 4), lengths_up_to(20, 4)
    ((32, 128, 512), (100,), (20,))
    """
    found = [most]
    while found[0] // factor >= MIN_LENGTH:
        found.insert(0, -(-found[0] // factor))
    return tuple(found)


def warmed(engine: Engine, said: Callable[[int], object] = lambda done: None) -> dict[int, float]:
    """Compile every program, and return how many seconds a batch of each size takes, of the longest examples.

    `said` is called with how many programs are ready.
    """
    done, costs = 0, {}
    for length in engine.lengths or (0,):
        for size in engine.sizes:
            batch = [_blank(engine)] * size
            run(engine, batch, size, length)
            costs[size] = min(_seconds(engine, batch, size, length) for _ in range(NUM_TIMED))
            done += 1
            said(done)
        if engine.explain is not None:
            explained(engine, _blank(engine), length)
            done += 1
            said(done)
    return costs


def chosen_size(waiting: int, costs: Mapping[int, float]) -> int:
    """Return the size of the next batch: the one that answers most of those waiting a second.

    Where twice the size takes twice the time (CPUs) half a batch is better left for the next one; where it
    takes no longer (accelerators) it is padded. Of equals it is the larger.

    >>> chosen_size(5, {1: 0.1, 4: 0.4, 8: 0.8}), chosen_size(5, {1: 0.1, 4: 0.11, 8: 0.12})
    (4, 8)
    """
    return max(costs, key=lambda size: (round(min(waiting, size) / costs[size], 6), size))


def run(
    engine: Engine, examples: Sequence[Inputs], size: int = 0, length: int = 0
) -> Float[np.ndarray, "examples outputs"]:
    """Return what the task says of each example, computed in a batch of a compiled size and length.

    0 takes the smallest that hold them all.
    """
    parts = engine.predictor
    size = size or next(each for each in engine.sizes if each >= len(examples))
    batch = _batch(engine, [*examples, *[examples[0]] * (size - len(examples))], length)
    found = engine.predict(parts.values, sharding.put_batch(batch, parts.mesh))
    return np.asarray(found)[: len(examples)]


def explained(engine: Engine, example: Inputs, length: int = 0) -> tuple[int, np.ndarray]:
    """Return the first class of an example, and what of the example it hangs on (see `explain.contract`)."""
    assert engine.explain is not None, "the model is explained"
    parts = engine.predictor
    # As many as there are devices, which share a batch.
    batch = _batch(engine, [example] * parts.mesh.size, length)
    _, classes, relevance = engine.explain(parts.values, sharding.put_batch(batch, parts.mesh))
    return int(np.asarray(classes)[0]), np.asarray(relevance)[0]


def told(engine: Engine, example: Inputs, output: int, relevance: np.ndarray) -> dict[str, Any]:
    """Return an explanation as clients are given it: a picture as a data URL, or tokens with their values."""
    parts = engine.predictor
    names = parts.stats.label_names
    label = names[output] if names else f"value{output}"
    found: dict[str, Any] = {"label": label, "index": output, "method": engine.method}
    if not engine.lengths:
        png = base64.b64encode(_png(pictures.overlaid(example, relevance))).decode()
        return {**found, "picture": f"data:image/png;base64,{png}"}
    pieces = texts.pieces(example, parts.preprocess, relevance[: len(example["ids"])])
    return {**found, "tokens": [each._asdict() for each in pieces]}


def _seconds(engine: Engine, batch: Sequence[Inputs], size: int, length: int) -> float:
    begin = time.perf_counter()
    run(engine, batch, size, length)
    return time.perf_counter() - begin


def _unexplained(*, is_program: bool) -> str:
    if is_program:
        return "an exported program has no layers to look into: no explanation; serve the run with --run"
    return "the model offers no explanation: its features are of other layers than its last"


def _batch(engine: Engine, examples: Sequence[Inputs], length: int) -> Inputs:
    parts = engine.predictor
    buckets = (length,) if length else engine.lengths
    return parts.input.collate(list(examples), buckets, parts.preprocess)


def _blank(engine: Engine) -> Inputs:
    parts = engine.predictor

    def filled(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return np.ones(leaf.shape, leaf.dtype)

    return map_leaves(filled, parts.input.spec(parts.preprocess))


def _png(pixels: np.ndarray) -> bytes:
    picture = Image.fromarray(pixels)
    scale = max(1, OVERLAY_PX // max(picture.size))
    size = (picture.width * scale, picture.height * scale)
    stream = io.BytesIO()
    picture.resize(size, Image.Resampling.BILINEAR).save(stream, "PNG")
    return stream.getvalue()
