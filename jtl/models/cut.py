"""A model cut in two before one of its modules: what runs below, and the rest, which begins with that.

What is kept of an example at the cut are the arguments that the module is called with. The rest is the whole
model with those in place of its own, so that no family knows of cuts: of what stands below, modules that are
done before the cut give zeros unrun, and what else there is works on these, for nothing. That nothing depends
on what stands below is read off the traced program here, as is what the kept depends on.
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
# Examples of the batch that is traced: as no other length is likely to be, so that a batch shows in a shape.
NUM_TRACED = 7
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
NO_STATS: frozenset[str] = frozenset()


class Cut(NamedTuple):
    """A model that is cut before the module `name`.

    `below(params, model_state, inputs, *, train, key, frozen_stats)` → what is kept of a batch. `rest` is the
    model that reads it in place of inputs: its `apply` gives features and logits, and no layer's output;
    features are the model's own wherever the cut is. `kept` are shapes and dtypes for one example. `calm` is
    what the kept depends on in evaluation.
    """

    name: str
    below: Callable[..., Kept]
    rest: Model
    kept: Mapping[str, jax.ShapeDtypeStruct]
    calm: "Trace"


class Trace(NamedTuple):
    """What the kept depends on: parameters and running statistics by name, and chance or not.

    `text` is the program, without what nothing kept depends on: equal texts compute the same.
    """

    names: frozenset[str]
    state_names: frozenset[str]
    is_random: bool
    text: str


class _Seen(NamedTuple):
    """What a pass of the model showed: the arguments of modules in the order of their calls.

    `below` are the shapes of what modules gave that were done before the first of those, by path and call.
    """

    order: list[str]
    below: dict[str, list[Any]]


def before(model: Model, prefixes: Sequence[str], params: Any, model_state: Any) -> Cut | None:
    """Return the model cut before the first of these modules that runs; None where it cannot be.

    It can where that module is called once, and what follows reads nothing that stands below but its
    arguments. Shapes of values do: nothing is computed.
    """
    seen, inputs = _Seen([], {}), batch_of(model.spec, NUM_TRACED)

    def first(params: Any, key: Any, model_state: Any, inputs: Any) -> Kept:
        found = _arguments(model, frozenset(prefixes), seen, params, model_state, inputs, key=key)
        return found[seen.order[0]] if seen.order else {}

    program, shapes = _traced(first, params, model_state, inputs)
    order = seen.order
    if not order or order.count(order[0]) > 1:
        return None
    name = order[0]
    used = _read_by_rest(model, name, params, model_state, shapes)
    if used is None:
        return None

    def below(params: Any, model_state: Any, inputs: Any, **options: Any) -> Kept:
        found = _arguments(model, frozenset([name]), _Seen([], {}), params, model_state, inputs, **options)
        return {each: leaf for each, leaf in found[name].items() if each in used}

    def apply(params: Any, model_state: Any, inputs: Kept, **options: Any) -> Outputs:
        size = next(iter(inputs.values())).shape[0]
        # What the rest does not read is zeros, too.
        blank = {each: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype) for each, leaf in shapes.items()}
        given = {**blank, **inputs}
        return _from(model, name, params, model_state, given, _blank(model, size), options, seen.below)

    kept = {
        each: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        for each, leaf in shapes.items()
        if each in used
    }
    calm = _depends(program, [each in used for each in shapes], params, model_state)
    return Cut(name, below, model._replace(apply=apply, spec=kept), kept, calm)


def trace(
    cut: Cut, params: Any, model_state: Any, inputs: Any, *, train: bool, frozen_stats: frozenset[str]
) -> Trace:
    """Return what the kept of a batch of such inputs depends on; shapes do, and nothing is computed.

    It is comparable with `cut.calm` for a batch of `NUM_TRACED` examples.
    """

    def run(params: Any, key: Any, model_state: Any, inputs: Any) -> Kept:
        return cut.below(params, model_state, inputs, train=train, key=key, frozen_stats=frozen_stats)

    program, shapes = _traced(run, params, model_state, inputs)
    return _depends(program, [True] * len(shapes), params, model_state)


def _traced(run: Callable[..., Kept], params: Any, model_state: Any, inputs: Any) -> tuple[Any, Any]:
    """Return a program of parameters, a key, running statistics and inputs, and its outputs' shapes."""
    key = jax.eval_shape(partial(jax.random.key, 0))
    return jax.make_jaxpr(run, return_shape=True)(params, key, model_state, inputs)


def _depends(program: Any, wanted: Sequence[bool], params: Any, model_state: Any) -> Trace:
    """Return what some of the outputs of such a program depend on."""
    uses, text = _live(program, wanted)
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
    seen: _Seen,
    params: Any,
    model_state: Any,
    inputs: Any,
    *,
    train: bool = False,
    key: Any = None,
    frozen_stats: frozenset[str] = NO_STATS,
) -> dict[str, Kept]:
    """Return the arguments that modules are called with, by name; `seen` is told of the calls."""
    found: dict[str, Kept] = {}

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != CALL:
            return following(*args, **kwargs)
        name = "/".join(context.module.path)
        if name in names:
            seen.order.append(name)
            found[name] = _named((args, kwargs))
        outputs = following(*args, **kwargs)
        if not seen.order:
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), outputs)
            seen.below.setdefault(name, []).append(shapes)
        return outputs

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
    below: Mapping[str, Sequence[Any]],
) -> Outputs:
    """Run the model on blank inputs, with the kept in place of a module's arguments.

    Modules `below` it give blanks of these shapes, and are not run.
    """
    with _replaced(name, kept, below) as seen:
        outputs = model.apply(params, model_state, blank, **options)
    # What a head reads are the features themselves, wherever they come from.
    features = seen.get("features", outputs.features)
    return Outputs(features, outputs.logits, outputs.model_state, {})


@contextmanager
def _replaced(name: str, kept: Kept, below: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Array]]:
    """Put the kept in place of a module's arguments; yields the features that a head is given."""
    seen: dict[str, Array] = {}
    # What has been called further on is run, of whatever name.
    left = {path: list(shapes) for path, shapes in below.items()}
    size = next(iter(kept.values())).shape[0]

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != CALL:
            return following(*args, **kwargs)
        path = "/".join(context.module.path)
        if path == name:
            structure = jax.tree.structure((args, kwargs))
            args, kwargs = jax.tree.unflatten(structure, kept.values())
            left.clear()
        if left.get(path):
            return jax.tree.map(partial(_zeros, size=size), left[path].pop(0))
        if path == HEAD:
            seen["features"] = args[0]
        return following(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield seen


def _zeros(shape: jax.ShapeDtypeStruct, *, size: int) -> Array:
    is_batch = shape.shape[:1] == (NUM_TRACED,)
    return jnp.zeros((size, *shape.shape[1:]) if is_batch else shape.shape, shape.dtype)


def _named(arguments: Any) -> Kept:
    return {f"argument{place}": leaf for place, leaf in enumerate(jax.tree.leaves(arguments))}


def _blank(model: Model, size: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch_of(model.spec, size))


def _read_by_rest(
    model: Model, name: str, params: Any, model_state: Any, shapes: Mapping[str, Any]
) -> frozenset[str] | None:
    """Return which arguments the rest reads; None where it reads the inputs as well."""

    def run(kept: Kept, blank: Any, params: Any, model_state: Any) -> Any:
        options = {"train": False, "key": None}
        outputs = _from(model, name, params, model_state, kept, blank, options, {})
        return outputs.features, outputs.logits

    inputs = batch_of(model.spec, NUM_TRACED)
    program = jax.make_jaxpr(run)(shapes, inputs, params, model_state)
    uses, _ = _live(program, [True] * len(program.jaxpr.outvars))
    num_inputs = len(jax.tree.leaves(inputs))
    if any(uses[len(shapes) : len(shapes) + num_inputs]):
        return None
    return frozenset(each for each, is_used in zip(shapes, uses, strict=False) if is_used)


def _live(program: Any, wanted: Sequence[bool]) -> tuple[list[bool], str]:
    """Return which inputs of a traced program the wanted outputs depend on, and its steps that they do on.

    An inner program counts as one step, which reads all that it is given.
    """
    jaxpr = program.jaxpr
    needed = {id(var) for var, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted}
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
