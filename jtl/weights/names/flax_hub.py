"""The names of Hugging Face's Flax classes (transformers 4), made from those of their PyTorch classes.

Flax writes paths with "/", calls a layer's weight `kernel`, a norm's `scale` and a table's `embedding`, and
keeps kernels [in, out] and [height, width, in, out]. Running statistics are a collection of their own.
"""

import numpy as np

from jtl.weights.contract import LeftOut, Op, Origin, Row

WEIGHTS = {"kernel": "kernel", "scale": "scale"}
STATISTICS = {"running_mean": "mean", "running_var": "var"}
PARAMS, STATS = "params/", "model_state/batch_stats/"


def origin(torch: Origin, kind: str = "") -> Origin:
    """Return the origin of the Flax class of a PyTorch class without running statistics."""
    return torch._replace(
        title=f"Hugging Face Flax {kind}names",
        prefix=torch.prefix.replace(".", "/"),
        rows=tuple(_row(row) for row in torch.rows),
        left_out=tuple(each for found in torch.left_out for each in _left_out(found)),
    )


def origin_with_statistics(torch: Origin, kind: str, inner: str) -> Origin:
    """Return the origin of a Flax class with running statistics; the backbone is under `inner` in each."""
    head = "classifier"

    def placed(row: Row) -> Row:
        path, _, leaf = row.source.rpartition("/")
        top = STATS if leaf in STATISTICS else PARAMS
        where = "" if row.source.startswith(head) else inner
        return row._replace(source=f"{top}{where}{path}/{STATISTICS.get(leaf, leaf)}")

    rows = tuple(placed(_row(row)) for row in torch.rows)
    return torch._replace(title=f"Hugging Face Flax {kind}names", prefix="", rows=rows, left_out=())


def _row(row: Row) -> Row:
    """Return the row of the same tensor in Flax's names and layout."""
    target = row.targets[0].rpartition("/")[2]
    path, _, leaf = row.source.rpartition(".")
    renamed = WEIGHTS.get(target, "embedding") if leaf == "weight" else leaf
    source = "/".join((*path.split("."), renamed)) if path else renamed
    return row._replace(source=source, op=_transposed(row.op) if renamed == "kernel" else row.op)


def _left_out(found: LeftOut) -> tuple[LeftOut, ...]:
    source = found.source.replace(".", "/")
    stem = source.removesuffix("/weight")
    names = [source] if stem == source else [f"{stem}/{leaf}" for leaf in ("kernel", "scale", "embedding")]
    return tuple(found._replace(source=name) for name in names)


def _transposed(op: Op) -> Op:
    """Return an operation on PyTorch's kernels as one on Flax's."""
    return Op(
        lambda array, shapes: op.forward(_to_torch(array), shapes),
        lambda arrays: _to_flax(op.inverse(arrays)),
    )


def _to_torch(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(*range(kernel.ndim)[::-1][:2], *range(kernel.ndim - 2))


def _to_flax(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(*range(2, kernel.ndim), 1, 0)
