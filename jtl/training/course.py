"""Where in its schedule a run is, where that does not go by the step.

The host sets a course between two steps, in the optimizer's state: it is saved with it, and no step is
compiled anew. A run of a given length has none, and its rates go by the number of the step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Course(NamedTuple):
    """Behind `start` updates at the fraction `position` of the schedule, and on by `slope` with each."""

    start: Int[Array, ""]
    position: Float[Array, ""]
    slope: Float[Array, ""]


class CourseState(NamedTuple):
    """The state of what scales updates by their rates: how many were seen, and the course."""

    num_updates: Int[Array, ""]
    course: Course


def begun() -> CourseState:
    """Return the state before the first update, which stays at the start of the schedule."""
    # Each leaf an array of its own: a step is given all of them to keep.
    start = jnp.zeros([], jnp.int32)
    return CourseState(start, Course(jnp.zeros([], jnp.int32), jnp.zeros([]), jnp.zeros([])))


def of(opt_state: Any) -> CourseState | None:
    """Return the course in an optimizer's state and its updates, None where its rates go by the step."""
    leaves = jax.tree.leaves(opt_state, is_leaf=_has_course)
    return next((leaf for leaf in leaves if _has_course(leaf)), None)


def changed(opt_state: Any, position: float, slope: float) -> Any:
    """Return the optimizer's state with a course from the next update on, lying where the one before did."""

    def with_course(leaf: Any) -> Any:
        if not _has_course(leaf):
            return leaf
        # A copy: a step is given each leaf to keep.
        start = jax.device_put(leaf.num_updates + 0, leaf.course.start.sharding)
        new = Course(start, _filled(leaf.course.position, position), _filled(leaf.course.slope, slope))
        return leaf._replace(course=new)

    return jax.tree.map(with_course, opt_state, is_leaf=_has_course)


def place(opt_state: Any, step: Int[Array, ""], num_steps: int) -> Array:
    """Return where in a schedule of `num_steps` the next update is: `step`, or where the course has it."""
    found = of(opt_state)
    if found is None:
        return step
    # Several heads have a course each, all the same.
    made, start, position, slope = (jnp.ravel(leaf)[0] for leaf in (found.num_updates, *found.course))
    return (position + (made - start) * slope) * num_steps


def _filled(leaf: Array, value: float) -> Array:
    return jax.device_put(np.full(leaf.shape, value, leaf.dtype), leaf.sharding)


def _has_course(state: Any) -> bool:
    return isinstance(state, CourseState)
