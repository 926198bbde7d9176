"""What engines that start processes say of them in the environment: which of how many this is.

Each function of `ENGINES` takes the environment and returns None where the engine has not started several.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jtl.errors import UserError

# A range that Linux gives no connections of its own, from which JAX takes its ports, too.
FIRST_PORT, NUM_PORTS = 61_440, 4_096
OPEN_MPI_PORT, SKYPILOT_PORT = 62_001, 62_002
# By what an engine numbers the processes it starts.
INDEXES = (
    "JOB_COMPLETION_INDEX",
    "SLURM_PROCID",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "TPU_WORKER_ID",
    "SKYPILOT_NODE_RANK",
)


class Place(NamedTuple):
    """Which process this is, and which of its machine's GPUs are its own (None: all it sees).

    `coordinator` is where process 0 listens, HOST:PORT; without one JAX finds out all of it. `source` says
    what told.
    """

    source: str
    coordinator: str = ""
    num_processes: int | None = None
    process_id: int | None = None
    devices: tuple[int, ...] | None = None


def slurm(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a task of `srun`; a batch script itself is none.

    JAX's own detection takes GPU number SLURM_LOCALID, and fails where there is one task a node with all its
    GPUs, or where each task sees only its own (`--gpus-per-task`).
    """
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environ for name in names):
        return None
    count = int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or 1)
    job = int(environ["SLURM_JOB_ID"])
    step = environ.get("SLURM_STEP_ID", "0")
    port = FIRST_PORT + (job + (int(step) if step.isdigit() else 0)) % NUM_PORTS
    tasks = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    node = int(environ.get("SLURM_NODEID", 0))
    local = tasks[node] if node < len(tasks) else 1
    return Place(
        "Slurm",
        f"{first_host(environ['SLURM_STEP_NODELIST'])}:{port}",
        count,
        int(environ["SLURM_PROCID"]),
        own_devices(int(environ["SLURM_LOCALID"]), local, environ),
    )


def open_mpi(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a process of `mpirun`, Open MPI 4 on any machines and 5 on one.

    Raises:
        UserError: Open MPI 5 does not say where process 0 is.
    """
    if "OMPI_COMM_WORLD_SIZE" not in environ:
        return None
    count, rank = int(environ["OMPI_COMM_WORLD_SIZE"]), int(environ["OMPI_COMM_WORLD_RANK"])
    local = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911
    uri = re.match(r"(\d+)\..*?tcp6?://\[?([^,\]:]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    if uri is not None:
        host, port = uri.group(2), FIRST_PORT + int(uri.group(1)) // 4096 % NUM_PORTS
    elif local == count:
        host, port = "127.0.0.1", OPEN_MPI_PORT
    else:
        raise UserError(
            "Open MPI 5 does not say on which machine process 0 is; set JTL_COORDINATOR=HOST:PORT and "
            f"JTL_NUM_PROCESSES={count} (mpirun -x), or JTL_DISTRIBUTED=off to run each by itself"
        )
    own = own_devices(int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)), local, environ)
    return Place("Open MPI", f"{host}:{port}", count, rank, own)


def sky_pilot(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a node of SkyPilot, each with one process for all of its GPUs."""
    names = ("SKYPILOT_NODE_IPS", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES")
    if any(name not in environ for name in names):
        return None
    first = environ["SKYPILOT_NODE_IPS"].split()[0]
    count, rank = int(environ["SKYPILOT_NUM_NODES"]), int(environ["SKYPILOT_NODE_RANK"])
    return Place("SkyPilot", f"{first}:{SKYPILOT_PORT}", count, rank)


def torch_run(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a process that has torchrun's variables; PyTorchJobs have them, too."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in environ for name in names):
        return None
    local = int(environ.get("LOCAL_WORLD_SIZE", 1))
    # On MASTER_PORT torchrun itself listens.
    address = f"{environ['MASTER_ADDR']}:{int(environ['MASTER_PORT']) + 1}"
    own = own_devices(int(environ.get("LOCAL_RANK", 0)), local, environ)
    return Place("torchrun's variables", address, int(environ["WORLD_SIZE"]), int(environ["RANK"]), own)


def gke_tpu(environ: Mapping[str, str]) -> Place | None:
    """Return a place that JAX finds out, of a worker of several of a TPU slice, or of several slices."""
    has_workers = "," in environ.get("TPU_WORKER_HOSTNAMES", "")
    has_slices = environ.get("MEGASCALE_NUM_SLICES", "1") not in ("", "1")
    return Place("the TPU's variables") if has_workers or has_slices else None


def first_host(nodes: str) -> str:
    """Return the first host of a list as Slurm writes it.

    >>> first_host("node[001-003,007],gpu2"), first_host("a1,a2"), first_host("n[1-2]-ib")
    ('node001', 'a1', 'n1-ib')
    """
    found = re.match(r"([^,\[]*)(?:\[([^,\-\]]+)[^\]]*\])?([^,\[]*)", nodes)
    assert found is not None, "every text has a beginning"
    prefix, number, suffix = found.groups(default="")
    return f"{prefix}{number}{suffix}"


def tasks_per_node(text: str) -> list[int]:
    """Return the tasks of each node, of a list as Slurm writes it.

    >>> tasks_per_node("2(x2),1")
    [2, 2, 1]
    """
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in parts for _ in range(int(times or 1))]


def own_devices(index: int, num_local: int, environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return which of the GPUs that it sees are those of process `index` of a machine's `num_local`.

    >>> own_devices(1, 2, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}), own_devices(1, 2, {})
    ((2, 3), (1,))
    >>> own_devices(0, 1, {}), own_devices(1, 2, {"CUDA_VISIBLE_DEVICES": "1"})
    (None, None)
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if num_local == 1:
        return None
    if visible is None:
        return (index,)
    share, rest = divmod(len([each for each in visible.split(",") if each]), num_local)
    return None if rest or not share else tuple(range(index * share, (index + 1) * share))


ENGINES: dict[str, Callable[[Mapping[str, str]], Place | None]] = {
    "SkyPilot": sky_pilot,
    "torchrun": torch_run,
    "Slurm": slurm,
    "Open MPI": open_mpi,
    "TPU": gke_tpu,
}
