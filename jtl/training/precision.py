"""What a run computes in, what it keeps frozen values in, and what of it people are told."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import tree
from jtl.models import layers
from jtl.strategies.contract import EXTRA, Group
from jtl.training.config import Config

HEAD = "head"


def frozen_dtype(config: Config) -> Any:
    """Return the dtype of frozen matrices on the devices: as set, or the one that the model computes in."""
    name = config.train.frozen_dtype
    return layers.compute_dtype(config.model.dtype if name == layers.AUTO else name)


def narrowed(frozen: Mapping[str, Any], dtype: Any) -> tree.Tree:
    """Return frozen parameters with their matrices in that dtype, to which a layer would cast them anyway.

    What a layer reads in float32 stays as it is: vectors (those of norms), the head, and what a strategy
    keeps of its own.
    """

    def kept(name: str, leaf: Any) -> Any:
        is_read_whole = leaf.ndim < 2 or name.split("/")[0] in (HEAD, EXTRA)
        return leaf if is_read_whole else leaf.astype(dtype)

    return tree.map_named(kept, frozen)


def widened(params: Mapping[str, Any], loaded: Mapping[str, Any]) -> tree.Tree:
    """Return host parameters in float32, each narrowed leaf as it was loaded if it is that one rounded."""
    whole = tree.flatten(loaded)

    def exact(name: str, leaf: Any) -> Any:
        if leaf.dtype != jnp.bfloat16:
            return leaf
        first = np.asarray(whole[name])
        return first if np.array_equal(first.astype(leaf.dtype), leaf) else np.asarray(leaf, np.float32)

    return tree.map_named(exact, params)


def described(config: Config) -> dict[str, str]:
    """Return what meta.json says: the dtypes, and the precision of matrix products."""
    return {
        "dtype": np.dtype(layers.compute_dtype(config.model.dtype)).name,
        "frozen_dtype": np.dtype(frozen_dtype(config)).name,
        "matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
    }


def remarks(config: Config, groups: Mapping[str, Group]) -> list[str]:
    """Return the lines for people: what was chosen, and why; `groups` say which parameters are frozen."""
    found = described(config)
    why = (
        f" (model.dtype={layers.AUTO}: {layers.auto_dtype()[1]})" if config.model.dtype == layers.AUTO else ""
    )
    lines = [f"computes in {found['dtype']}{why}, matrix products at precision {found['matmul_precision']}"]
    if found["dtype"] != "float32":
        lines[0] += "; softmax, statistics of norms, loss, metrics and optimizer in float32"
    if any(group.is_frozen for group in groups.values()) and found["frozen_dtype"] != "float32":
        lines.append(
            f"frozen matrices are kept in {found['frozen_dtype']} on the devices "
            f"(train.frozen_dtype={config.train.frozen_dtype}); the run folder has them as they were loaded"
        )
    return lines
