"""The contract every model family keeps: what it offers, what a built model is, what a forward pass gives."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from jtl.errors import UserError

# What a head can read: one vector of the whole example, or every token, for the word that stands there.
FEATURES, VOCABULARY = "features", "vocabulary"


class Outputs(NamedTuple):
    """What a forward pass gives.

    `features` [batch, dim] enter the head; `logits` [batch, num_outputs] are what it makes of them (the
    features themselves where the model has no head), or what a vocabulary head makes of the tokens [batch,
    places, vocabulary]; both are float32. `model_state` holds the new running statistics (the old ones when
    `train` is false); `intermediates` are activations by layer name, in the compute dtype.
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


class AttentionLayer(NamedTuple):
    """Names of an attention's linear layers: query, key and value by three, `out` takes what they find."""

    query: str
    key: str
    value: str
    out: str


class Attending(NamedTuple):
    """How the tokens of a transformer attend to each other, and which of them its features are made of.

    `layers` are from first to last. `seen(inputs)` → which tokens [batch, tokens] are there, and are no
    padding; `read(seen)` → the share of each [batch, tokens] in the features, of sum 1. Where there is
    `pooling`, a learned query attends to the tokens behind the grid's prefix instead. `grid` is how the
    tokens lie, None for those of a text.
    """

    layers: tuple[AttentionLayer, ...]
    seen: Callable[[Any], Array]
    read: Callable[[Array], Array]
    grid: TokenGrid | None = None
    pooling: AttentionLayer | None = None


class Inside(NamedTuple):
    """Where the inside of a model can be looked at, by names of its layers; "" and None where it cannot.

    `feature_map` gives the last map [batch, rows, columns, channels] that the features are made of,
    `embedding` the embeddings [batch, tokens, dim] of a text's tokens.
    """

    feature_map: str = ""
    attention: Attending | None = None
    embedding: str = ""


class Model(NamedTuple):
    """A built model: pure functions over plain nested dicts.

    `init(key)` → (params, model_state), float32, on the host, or with `init(key, names)` the leaves of these
    names alone, the others as shapes; `shapes()` is the same in `jax.ShapeDtypeStruct`s, with nothing drawn.
    `apply(params, model_state, inputs, *, train, key, frozen_stats, updates, scales)` → Outputs, where inputs
    are a tree of arrays [batch, …] as the family's kind of input normalises them, `key` feeds dropout (None
    when not training), and `frozen_stats` is a
    frozenset of module names ("block1/unit1/bn1") whose normalisation keeps its running statistics even in
    training. `updates` maps names of kernels of `linear()` to `(down, up)`: the layer computes with kernel +
    down · up, without ever making the sum. `scales` maps them to factors on their "inputs" and "outputs".
    `linear()` → shapes of the kernels that are plain linear maps, as (inputs, outputs): the kernel's shape is
    theirs one behind the other. `moments(params, model_state, inputs, mask)` → a model state of the batch's
    own means and (biased) variances, over the examples whose mask is true: evaluation, but that each
    normalisation layer goes by them. `pool(activations, inputs, how)` → a layer's output for these inputs as
    one float32 vector an example; `how` is one of `head.TOKEN_POOLS`. `layers` are groups of name prefixes of
    parameters from input to output, for layer-wise decay and gradual unfreezing; every parameter is under
    exactly one prefix, and the last group is the head: ("head",). `spec` are shapes and dtypes of the inputs
    of one example, in a length that the model can read; `preprocess` is what the model expects of its input.
    `inside` is what explanations may look at.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., Outputs]
    shapes: Callable[[], tuple[Any, Any]]
    linear: Callable[[], Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]]
    moments: Callable[..., Any]
    pool: Callable[[Array, Any, str], Array]
    layers: tuple[tuple[str, ...], ...]
    spec: Any
    preprocess: Any
    inside: Inside = Inside()


class Family(NamedTuple):
    """One family of models: its settings, its named sizes, and how to build one.

    `Config` is a frozen dataclass that adds to `head.Settings`. `build(config, num_outputs, **options)` →
    Model (num_outputs 0: no head), where the options are what its kind of input asks for (image:
    `num_channels=3`) and, where it has several heads, `reads`. `sizes` maps a size name to field values,
    which an explicit field overrides; `resolve(config)` is the config with all of them filled in. `tiny()` is
    a Config small enough for tests (milliseconds a step). `input` names the kind of input the family reads,
    `reads` what its heads can read.
    """

    Config: type
    build: Callable[..., Model]
    sizes: Mapping[str, Mapping[str, Any]]
    resolve: Callable[[Any], Any]
    tiny: Callable[[], Any]
    input: str
    reads: tuple[str, ...] = (FEATURES,)


def build(family: Family, config: Any, num_outputs: int, *, reads: str = FEATURES, **options: Any) -> Model:
    """Build a model of the family whose head reads that.

    A vocabulary head has as many outputs as the vocabulary has words, whatever `num_outputs` says.

    Raises:
        UserError: the family has no such head.
    """
    if reads not in family.reads:
        raise UserError(
            f"model.name is {config.name!r}, whose head reads {' or '.join(family.reads)}; the task needs "
            f"one that reads {reads}: set another model.name or task.name"
        )
    return family.build(config, num_outputs, **options, **({} if reads == FEATURES else {"reads": reads}))


def batch_of(spec: Any, size: int = 1) -> Any:
    """Return the shapes and dtypes of a batch of examples of this spec."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), spec)
