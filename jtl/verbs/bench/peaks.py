"""How many operations a device can do at most, by what its maker says, or by a measured matrix product.

Dense figures (no sparsity) of one device as JAX counts them, in FLOP/s, from the makers' data sheets:
NVIDIA's of each card, and https://cloud.google.com/tpu/docs/system-architecture (a device of TPU v2 and v3 is
one of a chip's two cores). float32 on NVIDIA from Ampere on means TF32, in which XLA multiplies by default.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jtl.verbs.bench.program import Flops

TERA = 1e12
H100 = {"bfloat16": 989.4 * TERA, "float32": 494.7 * TERA}

# By the beginning of what JAX calls the device; the longest that fits counts.
KNOWN: Mapping[str, Mapping[str, float]] = {
    "NVIDIA H200": H100,
    "NVIDIA H100": H100,
    "NVIDIA H100 PCIe": {"bfloat16": 756 * TERA, "float32": 378 * TERA},
    "NVIDIA H100 NVL": {"bfloat16": 835 * TERA, "float32": 417.5 * TERA},
    "NVIDIA GH200": H100,
    "NVIDIA A100": {"bfloat16": 312 * TERA, "float32": 156 * TERA},
    "NVIDIA A30": {"bfloat16": 165 * TERA, "float32": 82 * TERA},
    "NVIDIA A10": {"bfloat16": 125 * TERA, "float32": 62.5 * TERA},
    "NVIDIA L40S": {"bfloat16": 362 * TERA, "float32": 183 * TERA},
    "NVIDIA L4": {"bfloat16": 121 * TERA, "float32": 60 * TERA},
    "NVIDIA GeForce RTX 4090": {"bfloat16": 165.2 * TERA, "float32": 82.6 * TERA},
    "NVIDIA GeForce RTX 3090": {"bfloat16": 71 * TERA, "float32": 35.6 * TERA},
    "Tesla V100": {"float32": 15.7 * TERA},
    "Tesla T4": {"float32": 8.1 * TERA},
    "TPU v2": {"bfloat16": 22.5 * TERA},
    "TPU v3": {"bfloat16": 61.5 * TERA},
    "TPU v4": {"bfloat16": 275 * TERA},
    "TPU v5 lite": {"bfloat16": 197 * TERA},
    "TPU v5e": {"bfloat16": 197 * TERA},
    "TPU v5p": {"bfloat16": 459 * TERA},
    "TPU v5": {"bfloat16": 459 * TERA},
    "TPU v6 lite": {"bfloat16": 918 * TERA},
    "TPU v6e": {"bfloat16": 918 * TERA},
}
MATRIX_SIZE, NUM_PRODUCTS = 2048, 5


class Peak(NamedTuple):
    """The most FLOP/s of one device, and where that is from."""

    flops: float
    source: str


def known(device_kind: str, dtype: str) -> Peak | None:
    """Return the maker's figure; None where the table has none.

    >>> known("NVIDIA H100 80GB HBM3", "bfloat16").flops / TERA
    989.4
    >>> known("cpu", "float32") is None
    True
    """
    fitting = [name for name in KNOWN if device_kind.startswith(name)]
    figures = KNOWN[max(fitting, key=len)] if fitting else {}
    if dtype not in figures:
        return None
    return Peak(figures[dtype], f"{figures[dtype] / TERA:,.1f} TFLOP/s, {dtype}, of the data sheet")


def measured(dtype: str, num_devices: int, clock: Callable[[], float] = time.perf_counter) -> Peak:
    """Return what a matrix product of this dtype gives: the best of a few; on CPU the devices share it."""
    import jax
    import jax.numpy as jnp

    shape = (MATRIX_SIZE, MATRIX_SIZE)
    one, other = (jnp.full(shape, value, dtype) for value in (0.5, 0.25))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(one, other))
    seconds = []
    for _ in range(NUM_PRODUCTS):
        began = clock()
        jax.block_until_ready(product(one, other))
        seconds.append(clock() - began)
    found = 2 * MATRIX_SIZE**3 / min(seconds)
    shared = f", shared by {num_devices} devices" if num_devices > 1 else ""
    said = f"{found / TERA:,.3f} TFLOP/s measured, product of {MATRIX_SIZE:,} x {MATRIX_SIZE:,} {dtype}"
    return Peak(found / num_devices, said + shared)


def of_devices(dtype: str, num_devices: int) -> Peak:
    """Return the peak of one of so many devices in use: the maker's figure, or a measured one."""
    import jax

    device = jax.devices()[0]
    found = known(device.device_kind, dtype)
    if found is not None:
        return found
    return measured(dtype, num_devices if device.platform == "cpu" else 1)


def used(flops: Flops, seconds: float, dtype: str, num_devices: int) -> dict[str, Any]:
    """Return what a record says of the FLOPs of a step of so many seconds, and of the peak."""
    peak = of_devices(dtype, num_devices)
    rate = flops.asked / seconds
    return {
        "step": flops.asked,
        "step_compiled": flops.compiled,
        "per_second": rate,
        "peak_per_device": peak.flops,
        "peak_source": peak.source,
        "share_of_peak": rate / (peak.flops * num_devices),
    }
