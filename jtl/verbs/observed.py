"""What a model's layers, and its own head, give of every example: computed once and kept in the user's cache.

What rankings and few-shot episodes stand on. An entry is kept under a digest of all that decides a bit of it:
the compiled program, the weights, the pre-processing, the batches and the examples.
"""

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from jtl import runtime
from jtl.verbs.features import OWN, pooled

if TYPE_CHECKING:
    import jax
    import numpy as np

    import jtl.data
    import jtl.predictor

POOL, LOGITS = "mean", "logits"
NUM_TIMED = 3


class Observed(NamedTuple):
    """`layers` are pooled outputs [n, dim] by name, from input to output, the last those that a head reads.

    `logits` [n, outputs] are those of the weights' own head, None without one.
    """

    layers: "dict[str, np.ndarray]"
    logits: "np.ndarray | None"


class Rate(NamedTuple):
    """How fast this machine runs a model forward: FLOPs, and seconds of a batch."""

    flops: float
    seconds: float


def observed(
    opened: "jtl.predictor.Predictor",
    source: "jtl.data.Source",
    batch_size: int,
    say: Callable[[str], None],
    about: str,
) -> Observed:
    """Return what the model gives of every example in order; `about` names the model in lines for people.

    Raises:
        UserError: an example cannot be read, or a batch does not fit.
    """
    import numpy as np

    from jtl import files, predictor
    from jtl.data import store
    from jtl.training.features import FOLDER, InMemory

    names, step = layers_of(opened), make_step(opened)
    batches = predictor.batches(opened, source, batch_size)
    made: list[bool] = []

    def make(rows: Any) -> None:
        made.append(True)
        for batch, values in predictor.stepped(opened, step, batches):
            for name, value in values.items():
                rows.append(_array(name, names), np.asarray(value)[batch["mask"]])

    what = f"features of {len(source):,} {opened.input.unit} by {about}"
    kept = store.Store(files.cache_folder(FOLDER), opened.settings.inputs.features_bytes)
    key, num_bytes = _key(opened, step, source, batch_size), _bytes(opened, source)
    entry = store.kept(kept, key, make, num_bytes=num_bytes, about=what, say=say)
    if entry is None:
        found = InMemory()
        make(found)
        arrays = found.arrays()
    else:
        # Copies, so that the entry may be removed when room is needed.
        arrays = {name: np.array(array) for name, array in entry.arrays.items()}
        entry.close()
    say(f"{what}: {'computed' if made else 'read from the cache'}")
    layers = {name: arrays[_array(name, names)] for name in names}
    return Observed(layers, arrays.get(LOGITS))


def rate(opened: "jtl.predictor.Predictor", source: "jtl.data.Source", batch_size: int) -> Rate:
    """Measure the forward pass on the first examples: the least of a few runs behind one that warms up."""
    import jax
    import numpy as np

    from jtl import predictor
    from jtl.data.subset import Subset
    from jtl.training import sharding
    from jtl.verbs.bench import program

    few = Subset(source, np.arange(min(batch_size, len(source))))
    batch = next(iter(predictor.batches(opened, few, len(few))))
    inputs = sharding.put_batch(batch["inputs"], opened.mesh)
    lowered = make_step(opened).lower(opened.values, inputs)
    compiled = lowered.compile()
    seconds = []
    for _ in range(1 + NUM_TIMED):
        began = time.perf_counter()
        jax.block_until_ready(compiled(opened.values, inputs))
        seconds.append(time.perf_counter() - began)
    return Rate(program.flops(lowered, compiled, opened.mesh.size).asked, min(seconds[1:]))


def layers_of(opened: "jtl.predictor.Predictor") -> tuple[str, ...]:
    """Return the names of the model's layers from input to output."""
    import jax

    from jtl.models.contract import batch_of
    from jtl.training import step

    names: list[str] = []

    def run(values: Any, inputs: Any) -> Any:
        outputs = step.forward_normalised(opened, values["params"], values["model_state"], inputs)
        # In the order in which they were computed, which a tree that leaves the trace has no more.
        names.extend(outputs.intermediates)
        return outputs.features

    jax.eval_shape(run, opened.values, batch_of(opened.model.spec))
    return (*(name for name in names if name != OWN), OWN)


def make_step(opened: "jtl.predictor.Predictor") -> "Any":
    """Return the compiled function from (values, inputs) to every layer's pooled output and the logits."""
    import jax

    from jtl.training import step

    names = layers_of(opened)

    @partial(jax.jit, compiler_options=runtime.forward_options())
    def compiled(values: Any, inputs: Any) -> "dict[str, jax.Array]":
        inputs = opened.input.normalise(inputs, opened.preprocess)
        outputs = step.forward_normalised(opened, values["params"], values["model_state"], inputs)
        found = {name: pooled(outputs.intermediates[name], opened.model, inputs, POOL) for name in names}
        return found if opened.task is None else {**found, LOGITS: outputs.logits}

    return compiled


def _array(name: str, names: tuple[str, ...]) -> str:
    """Return what a layer's array is called on disk, where names are plain."""
    return name if name == LOGITS else f"layer{names.index(name)}"


def _shapes(opened: "jtl.predictor.Predictor") -> Any:
    import jax

    from jtl.models.contract import batch_of

    inputs = batch_of(opened.input.spec(opened.preprocess))
    return jax.eval_shape(make_step(opened), opened.values, inputs)


def _bytes(opened: "jtl.predictor.Predictor", source: "jtl.data.Source") -> int:
    import jax

    return len(source) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(_shapes(opened)))


def _key(opened: "jtl.predictor.Predictor", step: Any, source: "jtl.data.Source", batch_size: int) -> str:
    """Return a digest of all that decides a bit of what is kept."""
    import jax

    from jtl import __version__, tree
    from jtl.data.subset import fingerprints
    from jtl.models.contract import batch_of

    device = jax.devices()[0]
    spec = batch_of(opened.input.spec(opened.preprocess))
    about = {
        "jtl": __version__,
        "jax": jax.__version__,
        "device": f"{opened.mesh.size} {device.platform} {device.device_kind}",
        "program": step.lower(opened.values, spec).as_text(),
        "names": layers_of(opened),
        "preprocess": str(opened.preprocess),
        "batches": [batch_size, *opened.settings.inputs.buckets],
        "weights": tree.sha256(dict(opened.values)),
        "examples": hashlib.sha256(b"".join(fingerprints(source))).hexdigest(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
