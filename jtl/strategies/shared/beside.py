"""A linear head beside features that learn by something else: it learns by the task's loss, and teaches none.

It sends no gradient below and reads features without dropout, so that validation of the classes of training
means something.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jtl.errors import UserError
from jtl.models import Outputs
from jtl.strategies.contract import Group

HEAD = "head"
LINEAR = {f"{HEAD}/kernel", f"{HEAD}/bias"}


def groups(strategy: str, names: Sequence[str]) -> dict[str, Group]:
    """Return that everything trains.

    Raises:
        UserError: the head is not linear.
    """
    if {name for name in names if name.startswith(f"{HEAD}/")} != LINEAR:
        raise UserError(
            f"strategy {strategy!r} trains the features, and a linear head beside them; set "
            f"model.head_widths=() and model.adapter='none', and take weights with one head"
        )
    return dict.fromkeys(names, Group())


def forward(
    apply: Callable[..., Outputs], params: Any, inputs: Any, *, train: bool, key: Any, **hooks: Any
) -> Outputs:
    """Run the model; in training its head reads features that it sends no gradient to."""
    outputs = apply(params, inputs, train=train, key=key, **hooks)
    if not train:
        return outputs
    kernel, bias = params[HEAD]["kernel"], params[HEAD]["bias"]
    return outputs._replace(logits=jax.lax.stop_gradient(outputs.features) @ kernel + bias[None])
