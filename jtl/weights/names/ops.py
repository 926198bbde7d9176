"""Changes of layout between libraries, each with its inverse.

PyTorch keeps dense weights [out, in] and convolutions [out, in, height, width]; Flax keeps [in, out] and
[height, width, in, out], and splits attention's dimension into [heads, head_dim].
"""

from collections.abc import Callable

import numpy as np

from jtl.weights.contract import Op

Shapes = tuple[tuple[int, ...], ...]
Arrays = tuple[np.ndarray, ...]


def _single(forward: Callable[[np.ndarray], np.ndarray], inverse: Callable[[np.ndarray], np.ndarray]) -> Op:
    """Return the Op of a change that needs no shape and fills one target."""
    return Op(lambda array, shapes: (forward(array),), lambda arrays: inverse(arrays[0]))


def _heads_kernel(array: np.ndarray, shapes: Shapes) -> Arrays:
    return (array.T.reshape(array.shape[1], shapes[0][-2], -1),)


def _heads_kernel_back(arrays: Arrays) -> np.ndarray:
    return arrays[0].reshape(arrays[0].shape[0], -1).T


def _heads_bias(array: np.ndarray, shapes: Shapes) -> Arrays:
    return (array.reshape(shapes[0][-2], -1),)


def _heads_bias_back(arrays: Arrays) -> np.ndarray:
    return arrays[0].reshape(-1)


def _out_kernel(array: np.ndarray, shapes: Shapes) -> Arrays:
    return (array.T.reshape(shapes[0][0], -1, array.shape[0]),)


def _out_kernel_back(arrays: Arrays) -> np.ndarray:
    return arrays[0].reshape(-1, arrays[0].shape[-1]).T


def _split(
    count: int, each: Callable[[np.ndarray, Shapes], Arrays]
) -> Callable[[np.ndarray, Shapes], Arrays]:
    """Return `each` applied to the equal parts (query, key, value) of the first dimension."""
    return lambda array, shapes: tuple(each(part, shapes)[0] for part in np.split(array, count))


def _joined(each: Callable[[Arrays], np.ndarray]) -> Callable[[Arrays], np.ndarray]:
    return lambda arrays: np.concatenate([each((array,)) for array in arrays])


SAME = _single(lambda array: array, lambda array: array)
DENSE = _single(lambda array: array.transpose(1, 0), lambda array: array.transpose(1, 0))
CONV = _single(lambda array: array.transpose(2, 3, 1, 0), lambda array: array.transpose(3, 2, 0, 1))
HEADS_KERNEL = Op(_heads_kernel, _heads_kernel_back)
HEADS_BIAS = Op(_heads_bias, _heads_bias_back)
OUT_KERNEL = Op(_out_kernel, _out_kernel_back)
QKV_KERNEL = Op(_split(3, _heads_kernel), _joined(_heads_kernel_back))
QKV_BIAS = Op(_split(3, _heads_bias), _joined(_heads_bias_back))
KV_KERNEL = Op(_split(2, _heads_kernel), _joined(_heads_kernel_back))
KV_BIAS = Op(_split(2, _heads_bias), _joined(_heads_bias_back))
HALVES_KERNEL = Op(_split(2, DENSE.forward), _joined(DENSE.inverse))
HALVES_BIAS = Op(_split(2, SAME.forward), _joined(SAME.inverse))
