"""Attention of every family: softmax(queries · keys / √head_dim) · values, by the fastest code there is.

The softmax is float32 in any compute dtype.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jtl.errors import UserError
from jtl.models.dense_attention import Heads, Sources, attend

AUTO, XLA, CUDNN = "auto", "xla", "cudnn"
IMPLEMENTATIONS = (AUTO, XLA, CUDNN)
# What cuDNN's fused kernels take on all GPUs that have them (jax 0.10.2, `jax.nn.dot_product_attention`).
MAX_HEAD_DIM, HEAD_DIM_FACTOR, LEAST_CAPABILITY = 128, 8, 8.0


def attention(
    queries: Heads,
    keys: Sources,
    values: Sources,
    *,
    mask: Bool[Array, "batch sources"] | None = None,
    is_causal: bool = False,
    drop: Callable[[Array], Array] | None = None,
    implementation: str = AUTO,
) -> Heads:
    """Return what each query gathers from the sources.

    `implementation` is `model.attention`: cuDNN's kernels where they take these, else `dense_attention`; the
    other arguments are as it has them.

    Raises:
        UserError: cuDNN is asked for, and does not take these.
    """
    fault = _fault(queries, keys, has_mask=mask is not None, has_drop=drop is not None)
    if implementation == CUDNN and fault:
        raise UserError(f"model.attention is {CUDNN!r}, which {fault}; set model.attention={AUTO!r}")
    if implementation != XLA and not fault:
        each = None if mask is None else _for_each_query(mask, queries.shape[1])
        return jax.nn.dot_product_attention(
            queries, keys, values, mask=each, is_causal=is_causal, implementation=CUDNN
        )
    return attend(queries, keys, values, mask=mask, is_causal=is_causal, drop=drop)


def _fault(queries: Heads, keys: Sources, *, has_mask: bool, has_drop: bool) -> str:
    """Return why cuDNN's kernels do not take such arrays here, "" where they do."""
    device, head_dim = jax.devices()[0], queries.shape[-1]
    # An AMD GPU says a name ("gfx942") where NVIDIA's say a number.
    capability = str(getattr(device, "compute_capability", ""))
    is_known = device.platform == "gpu" and capability.replace(".", "", 1).isdigit()
    if not is_known or float(capability) < LEAST_CAPABILITY:
        return f"needs an NVIDIA GPU of compute capability {LEAST_CAPABILITY:g} or more"
    if queries.dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bfloat16 or float16, not {np.dtype(queries.dtype).name} (model.dtype)"
    if head_dim > MAX_HEAD_DIM or head_dim % HEAD_DIM_FACTOR:
        return f"takes heads of up to {MAX_HEAD_DIM} in steps of {HEAD_DIM_FACTOR}, not of {head_dim}"
    if has_drop:
        return "drops no weights of attention (model.attention_dropout)"
    if has_mask and (queries.shape[1] % 2 or keys.shape[1] % 2):
        return f"takes padded texts of an even length, not of {keys.shape[1]}"
    return ""


def _for_each_query(
    mask: Bool[Array, "batch sources"], num_queries: int
) -> Bool[Array, "batch 1 tokens sources"]:
    return jnp.broadcast_to(mask[:, None, None, :], (mask.shape[0], 1, num_queries, mask.shape[1]))
