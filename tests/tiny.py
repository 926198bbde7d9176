"""Tiny runs for tests: parts, states and batches of any model, strategy and task, in memory."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jtl import rng, tree
from jtl.data.sampling import Visit
from jtl.inputs import INPUTS
from jtl.models import MODELS, Model, Outputs
from jtl.models import contract as models
from jtl.predictor import Predictor
from jtl.strategies import STRATEGIES, Classifier, Context
from jtl.strategies.contract import TRAIN, Moment
from jtl.tasks import TASKS, LabelStats
from jtl.training import config, optim, sharding, step
from jtl.training import state as states
from jtl.training.state import State
from jtl.training.views import rows_of

NUM_CLASSES, NUM_TOKENS = 3, 8
# Each phase of gradual unfreezing compiles a step of its own; small networks compile faster.
FIELDS: dict[str, dict[str, Any]] = {
    "gradual": {"num_stages": 3},
    "distillation": {"teacher": "drawn"},
    # On CPU every inner step is compiled for itself.
    **{name: {"inner_steps": 2} for name in ("maml", "reptile")},
    **{name: {"hidden_widths": (8,)} for name in ("dann", "cdan", "mdd")},
}
# What learns from an average of the parameters.
AVERAGES = {"mean_teacher": 0.9}
MODEL_FIELDS: dict[str, dict[str, Any]] = {"vpt": {"num_prompts": 2}}
LABELS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "multiclass": lambda random, size: random.integers(0, NUM_CLASSES, size),
    "multilabel": lambda random, size: random.integers(0, 2, (size, NUM_CLASSES)).astype(np.float32),
    "regression": lambda random, size: random.normal(size=(size, NUM_CLASSES)).astype(np.float32),
}


def _images(random: np.random.Generator, size: int, preprocess: Any) -> np.ndarray:
    return random.integers(0, 256, (size, *preprocess.image_px, preprocess.num_channels), np.uint8)


def _no_labels(random: np.random.Generator, size: int) -> np.ndarray:
    del random
    return np.zeros(size, np.int64)


def _texts(random: np.random.Generator, size: int, preprocess: Any) -> dict[str, np.ndarray]:
    """Return texts of different lengths, padded, each of two words; the first has the full length."""
    shape, lengths = (size, NUM_TOKENS), random.integers(2, NUM_TOKENS, (size, 1))
    words = random.integers(2, preprocess.vocabulary, (size, 2), np.int32)
    lengths[0] = NUM_TOKENS
    return {
        "ids": np.take_along_axis(words, random.integers(0, 2, shape), axis=1),
        "segments": random.integers(0, 2, shape, np.int32),
        "mask": np.arange(NUM_TOKENS)[None] < lengths,
    }


# What a batch of each kind of input may hold.
DRAWN: dict[str, Callable[[np.random.Generator, int, Any], Any]] = {"image": _images, "tokens": _texts}
# The family whose tiny model teaches others of the same kind of input.
TEACHERS = {"image": "vit", "tokens": "bert"}
# What a tiny model's pre-processing has beside the family's own: a token that hides others.
SETTLED: dict[str, dict[str, Any]] = {"image": {}, "tokens": {"mask_id": 1, "special_ids": (0, 1)}}


def make_parts(
    model: str = "vit",
    strategy: str = "full",
    task: str = "multiclass",
    *,
    num_steps: int = 20,
    optimizer: optim.Config | None = None,
    augment: Any = None,
    adapts_frozen_stats: bool = False,
    model_config: Any = None,
    **strategy_fields: Any,
) -> tuple[step.Parts, Any, Any]:
    """Return the parts of a run and its initial parameters and model state; the head is random, not zero."""
    optimizer = optimizer or optim.Config(learning_rate=1e-2, ema=AVERAGES.get(strategy, 0.0))
    model_config = model_config or replace(MODELS[model].tiny(), **MODEL_FIELDS.get(strategy, {}))
    kind, source = TASKS[task], INPUTS[MODELS[model].input]
    stats = kind.stats(LABELS.get(task, _no_labels)(np.random.default_rng(0), 30), tuple("abc"))
    head = kind.head(kind.Config(), stats)
    built = models.build(MODELS[model], model_config, head.num_outputs, reads=head.reads)
    preprocess = settled(built)
    params, model_state = built.init(rng.key(0, "init"))
    params["head"] = jax.tree.map(lambda leaf: _noise(leaf, 0.1), params["head"])
    context = make_context(built, params, model_state, num_steps)
    context = context._replace(label_kind=kind.label_kind)
    strategy_kind = STRATEGIES[strategy]
    strategy_fields = FIELDS.get(strategy, {}) | strategy_fields
    chosen = strategy_kind.build(replace(strategy_kind.Config(), **strategy_fields), context)
    extra = chosen.extra(rng.key(0, "extra"), params, model_state)
    params = {**params, "extra": extra} if extra else params
    groups = optim.assign(chosen.groups(list(tree.flatten(params))), optimizer, context)
    parts = step.Parts(
        model=built,
        task=kind.build(kind.Config(), stats, preprocess),
        strategy=chosen,
        optimizer=optim.make(optimizer, groups, num_steps),
        optim=optimizer,
        groups=groups,
        input=source,
        preprocess=preprocess,
        augment=augment or source.Augment(),
        num_steps=num_steps,
        seed=0,
        adapts_frozen_stats=adapts_frozen_stats,
    )
    return parts, params, model_state


def make_predictor(family: str, **changes: Any) -> Predictor:
    """Return a tiny model of three classes with values away from those it begins with, ready to predict."""
    given, default = MODELS[family].tiny(), MODELS[family].Config()
    own = {name: value for name, value in vars(given).items() if value != getattr(default, name)}
    settings = config.from_dict({"model": {"name": family, **own, **changes}})
    model = MODELS[family].build(settings.model, NUM_CLASSES)
    preprocess, stats = settled(model), LabelStats(("ant", "bee", "cow"), NUM_CLASSES, (1,) * NUM_CLASSES)
    params, model_state = model.init(jax.random.key(0))
    random = np.random.default_rng(0)
    params = tree.map_named(
        lambda _, leaf: leaf + 0.2 * random.normal(size=leaf.shape).astype(leaf.dtype), params
    )
    return Predictor(
        settings=settings,
        stats=stats,
        input=INPUTS[MODELS[family].input],
        preprocess=preprocess,
        model=model,
        task=TASKS["multiclass"].build(settings.task, stats, preprocess),
        values={"params": params, "model_state": model_state},
        loaded=None,
        mesh=sharding.mesh(sharding.Config(devices=1)),
    )


def make_context(model: Model, params: Any, model_state: Any, num_steps: int) -> Context:
    """Return what strategies may know of a tiny model; every spec is a classifier drawn anew."""
    kind = kind_of(model.preprocess)

    def shapes() -> Outputs:
        return jax.eval_shape(model.apply, params, model_state, inputs_of(model, 1))

    def classifier(spec: str) -> Classifier:
        del spec
        family = MODELS[TEACHERS[kind]]
        other = family.build(family.tiny(), NUM_CLASSES)
        drawn, state = other.init(rng.key(7, "init"))
        drawn["head"] = jax.tree.map(lambda leaf: _noise(leaf, 0.1), drawn["head"])
        return Classifier(INPUTS[kind], other, drawn, state, tuple("abc"), settled(other))

    return Context(
        layers=model.layers,
        num_steps=num_steps,
        linear=model.linear,
        outputs=shapes,
        classifier=classifier,
        label_names=tuple("abc"),
        input=INPUTS[kind],
        preprocess=settled(model),
        episode=Visit(2, 2),
    )


def penalty_of(
    parts: step.Parts, params: Any, model_state: Any, batch: dict[str, Any], *, train: bool = False
) -> tuple[float, dict[str, float]]:
    """Return the penalty of a batch {stream: normalised inputs, …} and what it reports."""

    def apply(params: Any, inputs: Any, *, model_state: Any = model_state, **options: Any) -> Outputs:
        return parts.model.apply(params, model_state, inputs, **options)

    def penalty(params: Any, batch: Any) -> Any:
        assert parts.strategy.penalty is not None
        forward = partial(parts.strategy.forward, apply, train=train)
        key = jax.random.key(0)
        outputs = {name: forward(params, stream["inputs"], key=key) for name, stream in batch.items()}
        return parts.strategy.penalty(Moment(forward, params, batch, outputs, jax.numpy.zeros([], int), key))

    value, reported = jax.jit(penalty)(params, batch)
    return float(value), {name: float(each) for name, each in reported.items()}


def make_state(parts: step.Parts, params: Any, model_state: Any) -> State:
    """Return the state at step 0, on host copies, so that donation cannot reach the originals."""
    copies = jax.tree.map(np.array, (params, model_state))
    has_ema, memory = optim.has_average(parts.optim), parts.strategy.memory()
    return states.create(*copies, parts.groups, parts.optimizer, has_ema=has_ema, memory=memory)


def make_batch(parts: step.Parts, size: int = 8, seed: int = 0, task: str = "multiclass") -> dict[str, Any]:
    """Return a batch {stream: …} of random inputs with all examples real."""
    random = np.random.default_rng(seed)
    drawn = partial(DRAWN[kind_of(parts.preprocess)], random, preprocess=parts.preprocess)
    batch = {"inputs": drawn(size)}
    if task in LABELS:
        batch["label"] = LABELS[task](random, size)
    batch |= {"mask": np.ones(size, bool), "id": np.arange(size)}
    others: dict[str, Any] = {}
    for name in parts.strategy.streams:
        count = rows_of(parts, name, size)
        others[name] = {"inputs": drawn(count), "mask": np.ones(count, bool), "id": np.arange(count)}
    return {TRAIN: batch, **others}


def inputs_of(model: Model, size: int, seed: int = 0) -> Any:
    """Return random inputs as the model reads them."""
    kind = kind_of(model.preprocess)
    drawn = DRAWN[kind](np.random.default_rng(seed), size, model.preprocess)
    return INPUTS[kind].normalise(jax.tree.map(jax.numpy.asarray, drawn), model.preprocess)


def settled(model: Model) -> Any:
    """Return how a tiny model's inputs are pre-processed."""
    return replace(model.preprocess, **SETTLED[kind_of(model.preprocess)])


def kind_of(preprocess: Any) -> str:
    """Return the name of the kind of input that is pre-processed so."""
    return next(name for name, kind in INPUTS.items() if isinstance(preprocess, kind.Preprocess))


class Trainer:
    """Steps through all phases on a number of devices, compiling each phase once."""

    def __init__(self, parts: step.Parts, num_devices: int = 1) -> None:
        self._parts = parts
        self._mesh = sharding.mesh(sharding.Config(devices=num_devices))
        self._steps: dict[int, Any] = {}

    def train(self, state: State, batches: list[dict[str, Any]]) -> tuple[State, list[dict[str, float]]]:
        """Return the state after the batches and the metrics of each step."""
        place = sharding.of_state(state, sharding.Config(), self._mesh)
        state = jax.device_put(jax.tree.map(np.array, state), place)
        reported = []
        for batch in batches:
            phase = max(start for start in optim.phases(self._parts.groups) if start <= int(state.step))
            if phase not in self._steps:
                batch_place = sharding.of_batch(self._mesh)
                self._steps[phase] = step.make_train_step(self._parts, phase, place, batch_place)
            state, values = self._steps[phase](state, sharding.put_batch(batch, self._mesh))
            reported.append({name: float(value) for name, value in values.items()})
        return state, reported


def convolved(images: Any, kernel: Any) -> np.ndarray:
    """Return what a 3 x 3 convolution, padded by 1, makes of images [n, height, width, channels]; float64."""
    padded = np.pad(np.float64(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows, np.float64(kernel))


def compiled(parts: step.Parts, batch: dict[str, Any], params: Any, model_state: Any, phase: int = 0) -> Any:
    """Return the compiled train step on one device, for its cost and memory analysis."""
    mesh = sharding.mesh(sharding.Config(devices=1))

    def create(params: Any, model_state: Any) -> State:
        return states.create(params, model_state, parts.groups, parts.optimizer, has_ema=False)

    shapes = jax.eval_shape(create, params, model_state)
    place = sharding.of_state(shapes, sharding.Config(), mesh)
    return step.make_train_step(parts, phase, place, sharding.of_batch(mesh)).lower(shapes, batch).compile()


def _noise(leaf: Any, scale: float) -> np.ndarray:
    """Return noise in place of zeros, and what is none as it is."""
    noise = np.random.default_rng(1).normal(scale=scale, size=leaf.shape).astype(np.float32)
    return np.asarray(leaf) if np.any(leaf) else noise
