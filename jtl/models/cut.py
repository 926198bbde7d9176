"""A model cut in two before one of its modules: what runs below, and the rest, which begins with that.

What is kept of an example at the cut are the arguments that the module is called with. The rest is the whole
model with those in place of its own, so that no family knows of cuts: what stands below is then computed of
zeros that nothing depends on, and the compiler leaves it out. That nothing does depend on them is read off
the traced program here, as is what the kept depends on.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jtl import tree
from jtl.models.contract import Model, Outputs, batch_of

# What is kept of a batch at the cut: arrays [batch, …] by the place of the argument.
Kept = dict[str, Array]
CALL, HEAD = "__call__", "head"
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
NO_STATS: frozenset[str] = frozenset()


class Cut(NamedTuple):
    """A model that is cut before the module `name`.

    `below(params, model_state, inputs, *, train, key, frozen_stats)` → what is kept of a batch. `rest` is the
    model that reads it in place of inputs: its `apply` gives features and logits, and no layer's output;
    features are the model's own wherever the cut is. `kept` are shapes and dtypes for one example.
    """

    name: str
    below: Callable[..., Kept]
    rest: Model
    kept: Mapping[str, jax.ShapeDtypeStruct]


class Trace(NamedTuple):
    """What the kept depends on: parameters and running statistics by name, and chance or not.

    `text` is the program, without what nothing kept depends on: equal texts compute the same.
    """

    names: frozenset[str]
    state_names: frozenset[str]
    is_random: bool
    text: str


def before(model: Model, prefixes: Sequence[str], params: Any, model_state: Any) -> Cut | None:
    """Return the model cut before the first of these modules that runs; None where it cannot be.

    It can where that module is called once, and what follows reads nothing that stands below but its
    arguments. Shapes of values do: nothing is computed.
    """
    order: list[str] = []
    arguments = partial(_arguments, model, frozenset(prefixes), order)
    called = jax.eval_shape(arguments, params, model_state, batch_of(model.spec))
    if not order or order.count(order[0]) > 1:
        return None
    name, shapes = order[0], called[order[0]]
    used = _read_by_rest(model, name, params, model_state, shapes)
    if used is None:
        return None

    def below(params: Any, model_state: Any, inputs: Any, **options: Any) -> Kept:
        found = _arguments(model, frozenset([name]), [], params, model_state, inputs, **options)[name]
        return {each: leaf for each, leaf in found.items() if each in used}

    def apply(params: Any, model_state: Any, inputs: Kept, **options: Any) -> Outputs:
        size = next(iter(inputs.values())).shape[0]
        # What the rest does not read is zeros, too.
        blank = {each: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype) for each, leaf in shapes.items()}
        return _from(model, name, params, model_state, {**blank, **inputs}, _blank(model, size), options)

    kept = {
        each: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        for each, leaf in shapes.items()
        if each in used
    }
    return Cut(name, below, model._replace(apply=apply, spec=kept), kept)


def trace(
    cut: Cut, params: Any, model_state: Any, inputs: Any, *, train: bool, frozen_stats: frozenset[str]
) -> Trace:
    """Return what the kept of a batch of such inputs depends on; shapes do, and nothing is computed."""

    def run(params: Any, key: Any, model_state: Any, inputs: Any) -> Kept:
        return cut.below(params, model_state, inputs, train=train, key=key, frozen_stats=frozen_stats)

    key = jax.eval_shape(partial(jax.random.key, 0))
    program = jax.make_jaxpr(run)(params, key, model_state, inputs)
    uses, text = _live(program)
    # Trees are traced in the order of their sorted keys.
    of_params, of_state = (
        jax.tree.leaves(tree.map_named(lambda name, leaf: name, each)) for each in (params, model_state)
    )
    end = len(of_params)
    return Trace(
        frozenset(name for name, is_used in zip(of_params, uses, strict=False) if is_used),
        frozenset(name for name, is_used in zip(of_state, uses[end + 1 :], strict=False) if is_used),
        uses[end],
        text,
    )


def _arguments(
    model: Model,
    names: frozenset[str],
    order: list[str],
    params: Any,
    model_state: Any,
    inputs: Any,
    *,
    train: bool = False,
    key: Any = None,
    frozen_stats: frozenset[str] = NO_STATS,
) -> dict[str, Kept]:
    """Return the arguments that modules are called with, by name; `order` is told of each call."""
    found: dict[str, Kept] = {}

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        name = "/".join(context.module.path)
        if context.method_name == CALL and name in names:
            order.append(name)
            found[name] = _named((args, kwargs))
        return following(*args, **kwargs)

    with nn.intercept_methods(intercept):
        model.apply(params, model_state, inputs, train=train, key=key, frozen_stats=frozen_stats)
    return found


def _from(
    model: Model,
    name: str,
    params: Any,
    model_state: Any,
    kept: Kept,
    blank: Any,
    options: Mapping[str, Any],
) -> Outputs:
    """Run the model on blank inputs, with the kept in place of a module's arguments."""
    with _replaced(name, kept) as seen:
        outputs = model.apply(params, model_state, blank, **options)
    # What a head reads are the features themselves, wherever they come from.
    features = seen.get("features", outputs.features)
    return Outputs(features, outputs.logits, outputs.model_state, {})


@contextmanager
def _replaced(name: str, kept: Kept) -> Iterator[dict[str, Array]]:
    """Put the kept in place of a module's arguments; yields the features that a head is given."""
    seen: dict[str, Array] = {}

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if context.method_name == CALL and path == name:
            structure = jax.tree.structure((args, kwargs))
            args, kwargs = jax.tree.unflatten(structure, kept.values())
        if context.method_name == CALL and path == HEAD:
            seen["features"] = args[0]
        return following(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield seen


def _named(arguments: Any) -> Kept:
    return {f"argument{place}": leaf for place, leaf in enumerate(jax.tree.leaves(arguments))}


def _blank(model: Model, size: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch_of(model.spec, size))


def _read_by_rest(
    model: Model, name: str, params: Any, model_state: Any, shapes: Mapping[str, Any]
) -> frozenset[str] | None:
    """Return which arguments the rest reads; None where it reads the inputs as well."""

    def run(kept: Kept, blank: Any, params: Any, model_state: Any) -> Any:
        outputs = _from(model, name, params, model_state, kept, blank, {"train": False, "key": None})
        return outputs.features, outputs.logits

    inputs = batch_of(model.spec)
    uses, _ = _live(jax.make_jaxpr(run)(shapes, inputs, params, model_state))
    num_inputs = len(jax.tree.leaves(inputs))
    if any(uses[len(shapes) : len(shapes) + num_inputs]):
        return None
    return frozenset(each for each, is_used in zip(shapes, uses, strict=False) if is_used)


def _live(program: Any) -> tuple[list[bool], str]:
    """Return which inputs of a traced program its outputs depend on, and its steps that they depend on.

    An inner program counts as one step, which reads all that it is given.
    """
    jaxpr = program.jaxpr
    needed = {id(each) for each in jaxpr.outvars}
    steps = []
    for each in reversed(jaxpr.eqns):
        if any(id(out) in needed for out in each.outvars):
            needed |= {id(var) for var in each.invars}
            steps.append(each)
    numbers: dict[int, int] = {}
    constants = [f"{np.asarray(each).dtype} {np.asarray(each).tobytes().hex()}" for each in program.consts]
    text = "\n".join([*constants, *(_as_text(each, numbers) for each in reversed(steps))])
    return [id(var) in needed for var in jaxpr.invars], text


def _as_text(step: Any, numbers: dict[int, int]) -> str:
    """Return a step as text in which variables are numbered in the order in which they come."""

    def named(var: Any) -> str:
        if hasattr(var, "val"):  # a constant
            return str(var.val)
        return f"v{numbers.setdefault(id(var), len(numbers))}:{var.aval.str_short()}"

    inputs, outputs = (" ".join(map(named, each)) for each in (step.invars, step.outvars))
    params = ADDRESS.sub("", str(sorted(step.params.items())))
    return f"{outputs} = {step.primitive}[{params}] {inputs}"
