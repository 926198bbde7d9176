"""Which process of how many this is, by what engines put into the environment."""

import argparse
from typing import Any

import pytest

from jtl import distributed
from jtl.distributed import Given, place
from jtl.engines import Place
from jtl.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
OWN = {"JTL_COORDINATOR": "a:1", "JTL_NUM_PROCESSES": "2", "JTL_PROCESS_ID": "0"}
TORCH = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500", "LOCAL_RANK": "0"}
SKY = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}
JAX = {"JAX_COORDINATOR_ADDRESS": "a:2", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (OWN, Place("JTL_NUM_PROCESSES", "a:1", 2, 0)),
        ({**OWN, "JTL_LOCAL_DEVICES": "0,1"}, Place("JTL_NUM_PROCESSES", "a:1", 2, 0, (0, 1))),
        ({**OWN, "JTL_NUM_PROCESSES": "1"}, None),
        ({**OWN, **SLURM}, Place("JTL_NUM_PROCESSES", "a:1", 2, 0)),
        (JAX, Place("JAX_NUM_PROCESSES", "a:2", 3, 2)),
        (SKY, Place("SkyPilot", "10.0.0.1:62002", 2, 1)),
        (TORCH, Place("torchrun's variables", "a:29501", 2, 1)),
        (SLURM, Place("Slurm", "n1:62344", 4, 3, (1,))),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, Place("Open MPI", "127.0.0.1:62001", 2, 1, (0,))),
        (
            {**MPI, "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"},
            Place("Open MPI", f"10.96.0.1:{61440 + 1531576320 // 4096 % 4096}", 2, 1),
        ),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, Place("the TPU's variables")),
        ({"MEGASCALE_NUM_SLICES": "2"}, Place("the TPU's variables")),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"JTL_DISTRIBUTED": "off", **SLURM}, None),
        ({"JTL_DISTRIBUTED": "jax"}, Place("JAX's own detection")),
    ],
)
def test_engine_says_which_process_this_is(environ: dict[str, str], expected: Place | None) -> None:
    assert place(Given(), environ) == expected


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        # All tasks of a node see its eight GPUs, or as many as there are tasks.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (4, 5, 6, 7)),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, (1,)),
        # `--gpus-per-task=1`: each task sees its own.
        ({"CUDA_VISIBLE_DEVICES": "1"}, None),
        # One task a node has all of its GPUs.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
    ],
)
def test_task_of_slurm_has_its_share_of_the_gpus_that_it_sees(
    changes: dict[str, str], devices: tuple[int, ...] | None
) -> None:
    found = place(Given(), {**SLURM, **changes})
    assert found is not None
    assert found.devices == devices


@pytest.mark.parametrize("name", ["JOB_COMPLETION_INDEX", "SLURM_PROCID", "TPU_WORKER_ID"])
def test_number_of_a_process_may_be_left_to_the_engine(name: str) -> None:
    environ = {"JTL_COORDINATOR": "a:1", "JTL_NUM_PROCESSES": "4", name: "2"}
    assert place(Given(), environ) == Place("JTL_NUM_PROCESSES", "a:1", 4, 2)


def test_command_line_comes_before_the_environment() -> None:
    given = Given("", "b:7", 3, 1)
    assert place(given, {**OWN, **SLURM}) == Place("--num-processes", "b:7", 3, 1)


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        (Given("on"), {}, r"--distributed is 'on'; expected one of"),
        (Given(), {"JTL_NUM_PROCESSES": "2"}, r"JTL_COORDINATOR is not given; expected all of"),
        (
            Given(num_processes=2, coordinator="a:1"),
            {},
            r"JTL_PROCESS_ID is not given; expected all",
        ),
        (Given(), {**OWN, "JTL_PROCESS_ID": "2"}, r"JTL_PROCESS_ID is 2 of 2 processes; expected 0 to 1"),
        (Given(), {**OWN, "JTL_PROCESS_ID": "x"}, r"JTL_PROCESS_ID is 'x'; expected a whole number"),
        (Given(), {**OWN, "JTL_COORDINATOR": "a"}, r"JTL_COORDINATOR is 'a'; expected HOST:PORT"),
        (
            Given(),
            {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
            r"Open MPI 5 .* JTL_DISTRIBUTED=off",
        ),
    ],
)
def test_what_is_not_enough_says_what_is_missing(given: Given, environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        place(given, environ)


def test_arguments_are_what_was_given() -> None:
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser)
    words = ["--coordinator", "a:1", "--num-processes", "2", "--process-id", "0"]
    assert distributed.given_by(parser.parse_args(words)) == Given("", "a:1", 2, 0)
    assert distributed.given_by(parser.parse_args([])) == Given()


def test_process_that_is_alone_decides_by_itself() -> None:
    made: list[Any] = []
    assert distributed.told("anything", lambda: made.append(1)) is None
    assert made == [1]
    assert (distributed.process_id(), distributed.num_processes(), distributed.is_writer()) == (0, 1, True)
    assert not distributed.begin(Given(), {})
