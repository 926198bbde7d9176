"""What is measured or estimated where no data is asked for: a configuration's parts on labels and inputs that
stand in, with drawn values or with shapes alone.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    import jtl.models
    import jtl.tasks
    import jtl.training.build
    import jtl.training.config
    import jtl.training.state
    import jtl.training.step

NUM_CLASSES = 10
# Steps of a run that is not made: what of a schedule hangs on them costs nothing.
NUM_STEPS = 1000


class Subject(NamedTuple):
    """A configuration built on labels that stand in, and where its state and batches would lie."""

    settings: "jtl.training.config.Config"
    built: "jtl.training.build.Built"
    mesh: "Mesh"

    @property
    def parts(self) -> "jtl.training.step.Parts":
        """What a step is made of."""
        return self.built.parts


def subject(settings: "jtl.training.config.Config", *, has_values: bool = True) -> Subject:
    """Build the configuration; without `has_values` no weights are read, and its leaves take no memory.

    Raises:
        UserError: it cannot be built, or batch and devices do not go together.
    """
    from jtl.tasks import TASKS
    from jtl.training import build, sharding

    kind = TASKS[settings.task.name]
    names = tuple(map(str, range(NUM_CLASSES)))
    labels = LABELS[kind.label_kind](NUM_CLASSES)
    mesh = sharding.mesh(settings.sharding)
    build.check_batch(settings, sharding.num_shards(mesh))
    stats = kind.stats(labels, names)
    model_of = None if has_values else _shaped
    return Subject(settings, build.build(settings, stats, NUM_STEPS, model_of), mesh)


def dtype_of(built: "jtl.training.build.Built") -> str:
    """Return the name of the dtype that a model computes in: that of most of its layers' outputs."""
    from collections import Counter

    import jax

    from jtl.models.shapes import output_shapes
    from jtl.strategies.contract import without_extra

    outputs = output_shapes(built.parts.model, without_extra(built.params), built.model_state)
    found = Counter(leaf.dtype.name for leaf in jax.tree.leaves(dict(outputs.intermediates)))
    return found.most_common(1)[0][0] if found else outputs.features.dtype.name


def batch(found: Subject) -> dict[str, Any]:
    """Return a batch {stream: …} of random inputs, as long as can be where examples differ in that."""
    import numpy as np

    from jtl.data.contract import NO_LABELS
    from jtl.strategies.contract import TRAIN
    from jtl.tasks import TASKS
    from jtl.training.views import rows_of

    parts, settings = found.parts, found.settings
    kind = TASKS[settings.task.name].label_kind

    def drawn(name: str) -> dict[str, Any]:
        size = rows_of(parts, name, settings.train.batch_size)
        inputs = _inputs(parts, settings.inputs.buckets[-1], size)
        return {"inputs": inputs, "mask": np.ones(size, bool), "id": np.arange(size)}

    labels = {} if kind == NO_LABELS else {"label": LABELS[kind](settings.train.batch_size)}
    return {TRAIN: {**drawn(TRAIN), **labels}, **{name: drawn(name) for name in parts.strategy.streams}}


def batch_shapes(found: Subject) -> dict[str, Any]:
    """Return the shapes and dtypes of such a batch; one example of it is drawn."""
    import jax

    size = found.settings.train.batch_size
    single = found._replace(settings=with_batch_size(found.settings, 1))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size * len(leaf), *leaf.shape[1:]), leaf.dtype),
        batch(single),
    )


def state_shapes(found: Subject) -> tuple["jtl.training.state.State", Any]:
    """Return the shapes of the state at step 0, and the sharding of each of its leaves."""
    from jtl.training import sharding, starting

    shapes = starting.shapes(found.parts, found.settings, found.built.params, found.built.model_state)
    return shapes, sharding.of_state(shapes, found.settings.sharding, found.mesh)


def _class_labels(size: int) -> "np.ndarray":
    import numpy as np

    return np.arange(size) % NUM_CLASSES


def _multilabel_labels(size: int) -> "np.ndarray":
    import numpy as np

    return np.eye(NUM_CLASSES, dtype=np.float32)[np.arange(size) % NUM_CLASSES]


def _regression_labels(size: int) -> "np.ndarray":
    import numpy as np

    return np.linspace(-1, 1, size, dtype=np.float32)[:, None]


def _no_labels(size: int) -> "np.ndarray":
    import numpy as np

    return np.zeros(size, np.int64)


# By the kind of labels that a task reads.
LABELS: Mapping[str, Callable[[int], "np.ndarray"]] = {
    "class": _class_labels,
    "multilabel": _multilabel_labels,
    "regression": _regression_labels,
    "none": _no_labels,
}


def with_batch_size(settings: "jtl.training.config.Config", size: int) -> "jtl.training.config.Config":
    """Return the settings with another batch size."""
    from dataclasses import replace

    return replace(settings, train=replace(settings.train, batch_size=size))


def _inputs(parts: "jtl.training.step.Parts", length: int, size: int) -> Any:
    import jax
    import numpy as np

    random = np.random.default_rng(0)

    def drawn(leaf: Any) -> "np.ndarray":
        # Pixels are any byte, ids 0 or 1, which every model knows; a mask hides nothing.
        low, high = (0, 256) if leaf.dtype == np.uint8 else (int(leaf.dtype == np.bool_), 2)
        return random.integers(low, high, leaf.shape).astype(leaf.dtype)

    spec = parts.input.spec(parts.preprocess)
    examples = [jax.tree.map(drawn, spec) for _ in range(size)]
    return parts.input.collate(examples, buckets=(length,), preprocess=parts.preprocess)


def _shaped(
    settings: "jtl.training.config.Config", head: "jtl.tasks.Head", label_names: tuple[str, ...]
) -> tuple["jtl.models.Model", Any, Any, None]:
    """Return the model with zeros for values, each leaf one number seen many times: no memory."""
    import jax
    import numpy as np

    from jtl.models import MODELS
    from jtl.models.contract import build as build_model
    from jtl.training.config import input_of

    del label_names
    options = input_of(settings.model).model_options(settings.preprocess)
    model = build_model(
        MODELS[settings.model.name], settings.model, head.num_outputs, reads=head.reads, **options
    )
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros([], leaf.dtype), leaf.shape), model.shapes())
    return model, zeros[0], zeros[1], None
