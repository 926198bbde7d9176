"""What the tests stand on is really there: devices, rank promotion, run-time types, and no network."""

import os
import socket

import jax
import jax.numpy as jnp
import pytest

from jtl import rng


def test_there_are_eight_cpu_devices() -> None:
    if os.environ["JAX_PLATFORMS"] != "cpu":
        pytest.skip(f"JAX_PLATFORMS is {os.environ['JAX_PLATFORMS']}: the devices are what the machine has")
    assert jax.device_count() == 8


def test_rank_promotion_raises() -> None:
    with pytest.raises(ValueError, match="jax_numpy_rank_promotion='raise'"):
        jnp.add(jnp.ones((2, 3)), jnp.ones(3))


def test_annotations_are_checked_at_run_time() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        rng.key("seed", "init")  # type: ignore[arg-type]


def test_other_machines_are_out_of_reach() -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): nobody answers there.
    refused = pytest.raises(AssertionError, match=r"a test tried to connect to \('192.0.2.1', 80\)")
    with socket.socket() as connection, refused:
        connection.connect(("192.0.2.1", 80))


def test_this_machine_is_in_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
