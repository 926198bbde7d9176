"""Whether batches of a size can be had: they are refused before anything of them is allocated."""

import math
from typing import Any

import numpy as np

from jtl import distributed, memory
from jtl.errors import UserError
from jtl.inputs import Input
from jtl.inputs.contract import leaves_of

FLOAT32_BYTES = 4


def check(kind: Input, preprocess: Any, batch_size: int, setting: str, *, more_bytes: int = 0) -> None:
    """Check that a batch of examples, and the same as float32 numbers, fit in memory.

    That is the least a model needs; `more_bytes` an example are what else is known of. `setting` is what the
    user changes. Of several processes each has its part of a batch.

    Raises:
        UserError: they cannot fit, or the size is no number of examples.
    """
    if batch_size < 1:
        raise UserError(f"{setting} is {batch_size}; expected 1 or more")
    each = example_bytes(kind, preprocess) + more_bytes
    what = f"{setting} {batch_size:,}: a batch of {kind.unit} of at least {memory.text(each)} each"
    limit = min(memory.host_bytes(), memory.device_bytes())
    own = -(-batch_size // distributed.num_processes())
    memory.check(own * each, what, f"lower {setting}", limit=limit)


def example_bytes(kind: Input, preprocess: Any) -> int:
    """Return the bytes of an example as it is read and as float32 numbers, of the shortest there may be."""
    return sum(
        math.prod(leaf.shape) * (np.dtype(leaf.dtype).itemsize + FLOAT32_BYTES)
        for leaf in leaves_of(kind.spec(preprocess))
    )
