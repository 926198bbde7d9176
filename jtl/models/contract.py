"""The contract every model family keeps: what it offers, what a built model is, what a forward pass gives."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array

from jtl.inputs.preprocess import Preprocess


class Outputs(NamedTuple):
    """What a forward pass gives.

    `features` [batch, dim] enter the head; `logits` [batch, num_outputs] are what it makes of them (the
    features themselves where the model has no head); both are float32. `model_state` holds the new running
    statistics (the old ones when `train` is false); `intermediates` are activations by layer name, in the
    compute dtype.
    """

    features: Array
    logits: Array
    model_state: Any
    intermediates: Mapping[str, Array]


class TokenGrid(NamedTuple):
    """How tokens lie: `prefix` of them without a place (class token, registers), then rows x columns."""

    prefix: int
    rows: int
    columns: int


class Model(NamedTuple):
    """A built model: pure functions over plain nested dicts.

    `init(key)` → (params, model_state), float32, on the host; `shapes()` is the same in
    `jax.ShapeDtypeStruct`s, with nothing drawn. `apply(params, model_state, inputs, *, train, key,
    frozen_stats, updates, scales)` → Outputs, where inputs are normalised images [batch, height, width,
    channels], `key` feeds dropout (None when not training), and `frozen_stats` is a frozenset of module names
    ("block1/unit1/bn1") whose normalisation keeps its running statistics even in training. `updates` maps
    names of kernels of `linear()` to `(down, up)`: the layer computes with kernel + down · up, without ever
    making the sum. `scales` maps them to factors on their "inputs" and "outputs". `linear()` → shapes of the
    kernels that are plain linear maps, as (inputs, outputs): the kernel's shape is theirs one behind the
    other. `moments(params, model_state, inputs, mask)` → a model state of the batch's own means and (biased)
    variances, over the examples whose mask is true: evaluation, but that each normalisation layer goes by
    them. `layers` are groups of name prefixes of parameters from input to output, for layer-wise decay and
    gradual unfreezing; every parameter is under exactly one prefix, and the last group is the head:
    ("head",). `preprocess` is what the model expects of its input. `token_grid` says how the tokens of its
    intermediates lie, None where they are maps.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., Outputs]
    shapes: Callable[[], tuple[Any, Any]]
    linear: Callable[[], Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]]
    moments: Callable[..., Any]
    layers: tuple[tuple[str, ...], ...]
    preprocess: Preprocess
    token_grid: TokenGrid | None = None


class Family(NamedTuple):
    """One family of models: its settings, its named sizes, and how to build one.

    `Config` is a frozen dataclass that adds to `head.Settings`. `build(config, num_outputs,
    num_channels=3)` → Model (num_outputs 0: no head). `sizes` maps a size name to field values, which an
    explicit field overrides; `resolve(config)` is the config with all of them filled in. `tiny()` is a Config
    small enough for tests (milliseconds a step).
    """

    Config: type
    build: Callable[..., Model]
    sizes: Mapping[str, Mapping[str, Any]]
    resolve: Callable[[Any], Any]
    tiny: Callable[[], Any]
    input: str = "image"
    reads: tuple[str, ...] = ("features",)
