"""The contract between strategy and step: which leaves train when, the forward pass, what the loss adds.

A parameter is named by its '/'-joined path; what a strategy adds to the model (adapters, discriminators)
lives under the reserved top-level name "extra".

A batch is {stream: examples}: "train" has labels, what `Strategy.streams` name beside it has none.

What a strategy learns from one step to the next beside parameters (thresholds, counts) is its memory: a tree
of arrays in the training state, which is saved and restored with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Key

from jtl.data.sampling import Visit
from jtl.errors import UserError
from jtl.inputs import INPUTS, Input, Inputs
from jtl.models import Model, Outputs
from jtl.tasks.contract import NO_LABELS

EXTRA = "extra"
TRAIN, TARGET, UNLABELLED = "train", "target", "unlabelled"
Forward = Callable[..., Outputs]
# A scalar that is added to the mean loss, and metrics by name.
Penalty = tuple[Float[Array, ""], dict[str, Array]]


@dataclass(frozen=True)
class Group:
    """How one leaf trains.

    `multiplier` scales its learning rate (0: frozen, stored and checkpointed but never differentiated). It
    starts to train at `start_step` and reaches its full rate `ramp_steps` later.
    """

    multiplier: float = 1.0
    start_step: int = 0
    ramp_steps: int = 0

    @property
    def is_frozen(self) -> bool:
        """Whether the leaf never trains."""
        return self.multiplier == 0.0


FROZEN = Group(multiplier=0.0)


class Classifier(NamedTuple):
    """A model that is trained already, with its own head: its values, its classes, and what it reads."""

    input: Input
    model: Model
    params: dict[str, Any]
    model_state: Any
    label_names: tuple[str, ...]
    preprocess: Any


def no_outputs() -> Outputs:
    """Stand for a model of which nothing is known."""
    raise AssertionError("this context knows no model")


def no_classifier(spec: str) -> Classifier:
    """Stand for weights that cannot be loaded."""
    raise AssertionError(f"this context loads no weights: {spec}")


class Stream(NamedTuple):
    """A stream of a batch beside "train".

    Its examples are those `of` "target" or "unlabelled" (the settings `data.target`, `data.unlabelled`), or
    "train" itself; two streams of the same ones have the same examples in every batch, varied each by its own
    draws. There are `times` as many as labelled ones, varied strongly if `is_strong`, else as those of
    "train" are. With `has_gradient` they run through the model with those of "train"; without it they do so
    only where the statistics of batch normalisation are of them too, and nothing is learned by them; unless
    `is_run`, the penalty runs what it needs of them itself.
    """

    of: str
    times: int = 1
    is_strong: bool = False
    has_gradient: bool = True
    is_run: bool = True


OF_TARGET: Mapping[str, Stream] = {TARGET: Stream(TARGET)}


class Context(NamedTuple):
    """What a strategy may depend on.

    `Model.layers`, the run's number of steps, and `Model.linear`; `outputs()` are the shapes of the model's
    outputs for one example (`jax.ShapeDtypeStruct`); `classifier(spec)` loads weights with their own head, ""
    those the run starts from; `label_names` are the task's classes, `label_kind` is that of its labels, and
    `input` and `preprocess` say what the model reads; `episode` is what tasks batches are made of (None: of
    none that end in them), `num_unlabelled` are the examples of `data.unlabelled` (1 where there is no data,
    as in a benchmark).
    """

    layers: tuple[tuple[str, ...], ...]
    num_steps: int
    linear: Callable[[], Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]] = dict
    outputs: Callable[[], Outputs] = no_outputs
    classifier: Callable[[str], Classifier] = no_classifier
    label_names: tuple[str, ...] = ()
    label_kind: str = "class"
    input: Input = INPUTS["image"]
    preprocess: Any = None
    episode: Visit | None = None
    num_unlabelled: int = 1


def check_classes(name: str, context: Context) -> None:
    """Check that the task has one class an example, as strategy `name` needs it.

    Raises:
        UserError: it has not.
    """
    if context.label_kind != "class":
        raise UserError(
            f"strategy {name!r} needs probabilities of classes and the task's labels are of kind "
            f"{context.label_kind!r}; set task.name='multiclass', or another strategy"
        )


def check_labels(name: str, context: Context) -> None:
    """Check that the task has labels: one that hides parts of its inputs hides none of another domain's.

    Raises:
        UserError: it has none.
    """
    if context.label_kind == NO_LABELS:
        raise UserError(
            f"strategy {name!r} adapts what labels teach to another domain and the task has none; set "
            f"task.name='multiclass' or another with labels, or another strategy"
        )


class Compared(NamedTuple):
    """How a penalty compares the examples of a slice: how few it can, and another way out than more."""

    least: int = 1
    cure: str = ""


def no_extra(key: Array, params: Any, model_state: Any) -> dict[str, Any]:
    """Add nothing to the model."""
    return {}


def without_extra(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's own parameters."""
    return {name: leaf for name, leaf in params.items() if name != EXTRA}


def plain_forward(
    apply: Callable[..., Outputs], params: Any, inputs: Inputs, *, train: bool, key: Any, **hooks: Any
) -> Outputs:
    """Run the model as it is.

    `apply(params, inputs, *, train, key, **hooks)` has the model's state bound, unless `hooks` have another
    `model_state`; the others are `Model.apply`'s.
    """
    return apply(params, inputs, train=train, key=key, **hooks)


class Moment(NamedTuple):
    """What a penalty may look at: one slice of a batch on its way through the loss.

    `params` are all parameters, what the strategy added under "extra". `batch` has for each stream what the
    model reads ("inputs", normalised and augmented) and its "mask"; that of "train" also has the labels and
    the blended targets. `outputs` are the model's, by stream, from the one pass over all of them.
    `forward(params, inputs, *, key)` runs the model once more in training mode, or with `train=False`, and
    with other running statistics by `model_state=…`. `step` is the number of the step, or where in the run's
    schedule it is, `key` for what is random. `memory` is the strategy's own, as the step before left it,
    `average` that of all parameters so far, None where the strategy needs none.
    """

    forward: Callable[..., Outputs]
    params: Mapping[str, Any]
    batch: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Outputs]
    step: Array
    key: Key[Array, ""]
    memory: Any = None
    average: Any = None


def nothing_kept() -> tuple[()]:
    """Return the memory of a strategy that keeps nothing from step to step."""
    return ()


def as_it_was(moment: Moment) -> Any:
    """Return the memory as the step before left it."""
    return moment.memory


class Cell(NamedTuple):
    """One of several heads that train side by side; None, () and "" mean as the run's settings have it.

    It reads those `layers` of `model.features`, pooled by `pool`.
    """

    learning_rate: float | None = None
    weight_decay: float | None = None
    layers: tuple[str, ...] = ()
    pool: str = ""


class Solver(NamedTuple):
    """How a linear head is solved for: the `strengths` of its penalty to choose from over so many `folds`."""

    strengths: tuple[float, ...]
    folds: int


class Strategy(NamedTuple):
    """A built strategy: pure functions, each with a default.

    `groups(names)` → Group a leaf, by name. `extra(key, params, model_state)` → parameters the strategy adds,
    from the model's at the start. `prepare(extra, features, labels)` → the same leaves once the training
    examples' features [n, dim] and labels [n], of the model at the start, are known; None needs none of them.
    `forward(apply, params, inputs, *, train, key, **hooks)` → Outputs, shared by training and evaluation.
    `streams` are the streams of a batch it needs beside "train", by name; the step runs all in one forward
    pass. `penalty(moment)` → (scalar added to the mean loss, metrics by name); None adds nothing.
    `merged(params)` → the parameters to write and serve, where what was added is folded into the model's own.

    `memory()` → what it keeps from step to step, as it begins, and `remember(moment)` → that after a step;
    with `needs_average` it learns from the average of the parameters (`optim.ema`). `shown` are the metrics
    of the penalty, shares, that people see while it trains.

    `heads` train side by side, and validation chooses one; `solver` solves for the head in place of training
    it; both on what the frozen layers give alone, and `needs_features` names the setting that asks for it.

    For what is checked and said before a run: `compares` is how the penalty compares the examples of a batch
    with each other (None: it does not), `task_size` of how many examples in a row a task of a batch is (0: it
    has none), `holds_start` whether it draws the model to where it starts; `remarks` are lines of its own.

    `told(apply, params, few, others, ways)` → logits [others, ways] of what a trained model reads, once it
    has learnt the labelled examples `few` of so many new classes, which lie class by class; None: it learns
    nothing anew. `apply(params, inputs, *, by_batch)` runs the model in evaluation, with batch normalisation
    by these very inputs if `by_batch`.
    """

    groups: Callable[[Sequence[str]], Mapping[str, Group]]
    extra: Callable[[Array, Any, Any], dict[str, Any]] = no_extra
    forward: Forward = plain_forward
    penalty: Callable[[Moment], Penalty] | None = None
    merged: Callable[[Mapping[str, Any]], dict[str, Any]] = without_extra
    streams: Mapping[str, Stream] = {}
    prepare: Callable[..., dict[str, Any]] | None = None
    compares: Compared | None = None
    task_size: int = 0
    told: Callable[..., Array] | None = None
    holds_start: bool = False
    heads: tuple[Cell, ...] = ()
    solver: Solver | None = None
    needs_features: str = ""
    remarks: tuple[str, ...] = ()
    memory: Callable[[], Any] = nothing_kept
    remember: Callable[[Moment], Any] = as_it_was
    needs_average: bool = False
    shown: tuple[str, ...] = ()


class StrategyKind(NamedTuple):
    """One kind of strategy: its settings and how to build it for a model and a number of steps."""

    Config: type
    build: Callable[[Any, Context], Strategy]
