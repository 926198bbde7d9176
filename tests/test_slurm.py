"""launch/slurm.sbatch under a real Slurm: two nodes on this machine, two tasks, stopped, requeued, finished.

Slurm is started here with a configuration of its own (Debian: slurm-wlm and munge) and ended again. It wants
root, as its daemons do.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
CONFIGURATION = """
ClusterName=jtl
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort=6917
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SelectType=select/cons_tres
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=30
NodeName=127.0.0.[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[6918-6919] CPUs=96 Gres=gpu:8
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Names that every process of this machine can look up.
NODES = ("127.0.0.1", "127.0.0.2")
LIMIT_SECONDS = 600.0
pytestmark = pytest.mark.slow


def missing() -> str:
    """Why there can be no Slurm here, "" where it can be started."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"{', '.join(absent)} is not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons want root"


class Slurm:
    """Two nodes on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> None:
        self.daemons.append(
            subprocess.Popen(
                words, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    def call(self, *words: str) -> str:
        done = subprocess.run(
            words, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, run: Path, log: Path, *flags: str) -> str:
        """Submit the script as it is, for two nodes of one task each on CPU; return the job's number."""
        words = ("--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", f"--output={log}")
        train = ("--config", "configs/smoke.py", "--workdir", str(run), *flags)
        return self.call("sbatch", *words, "--gpus-per-node=8", "launch/slurm.sbatch", *train).strip()

    def state(self, job: str) -> str:
        return self.call("scontrol", "show", "job", job).partition("JobState=")[2].partition(" ")[0]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(f"no Slurm: {reason}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", *(f"spool-{node}" for node in NODES), "munge"):
        (folder / name).mkdir()
    host = os.uname().nodename
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host))
    devices = [folder / f"gpu{number}" for number in range(8)]
    for device in devices:
        # A device of nothing, in the place of a GPU.
        subprocess.run(["mknod", device, "c", "1", "3"], check=True)
    (folder / "gres.conf").write_text(f"NodeName=127.0.0.[1-2] Name=gpu File={folder}/gpu[0-7]\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "munge").chmod(0o700)
    found = Slurm(folder)
    found.start(
        *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"),
        *(
            f"--pid-file={folder}/munge/pid",
            f"--log-file={folder}/munge/log",
            f"--seed-file={folder}/munge/seed",
        ),
    )
    _wait(lambda: (folder / "munge.socket").exists(), "munged")
    found.start("slurmctld", "-D")
    for node in NODES:
        found.start("slurmd", "-D", "-N", node)
    try:
        _wait(lambda: found.call("scontrol", "show", "nodes").count("State=IDLE") == 2, "two nodes")
        yield found
    finally:
        for daemon in reversed(found.daemons):
            daemon.terminate()
        for daemon in found.daemons:
            daemon.wait(30)


def test_job_that_is_told_to_stop_is_requeued_and_ends_in_the_bits_of_one_that_was_not(
    slurm: Slurm, tmp_path: Path
) -> None:
    flags = [f"--config.train.{name}" for name in ("steps=150", "eval_every=150", "checkpoint_every=50")]
    undisturbed = slurm.submit(tmp_path / "whole", tmp_path / "whole.log", *flags)
    _wait(lambda: slurm.state(undisturbed) == "COMPLETED", "the undisturbed job", tmp_path / "whole.log")
    job = slurm.submit(tmp_path / "run", tmp_path / "run.log", *flags)
    _wait(lambda: "step 1/150" in _text(tmp_path / "run.log"), "its first step", tmp_path / "run.log")
    slurm.call("scancel", "--signal=TERM", job)
    _wait(
        lambda: "jtl ended with 75: requeued" in _text(tmp_path / "run.log"), "the end", tmp_path / "run.log"
    )
    _wait(lambda: slurm.state(job) == "COMPLETED", "the requeued job", tmp_path / "run.log")
    text = _text(tmp_path / "run.log")
    assert "resumed at step" in text
    whole, found = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "run"))
    assert found["digest"] == whole["digest"]
    assert found["goodput"]["attempts"] == 2
    assert json.loads((tmp_path / "run/meta.json").read_text())["num_processes"] == 2


@pytest.mark.parametrize("name", ["slurm.sbatch", "slurm_container.sbatch"])
def test_slurm_takes_every_option_of_the_scripts_as_they_are(slurm: Slurm, name: str) -> None:
    # Two nodes of eight tasks with a GPU each.
    slurm.call("sbatch", "--test-only", f"launch/{name}", "--config", "configs/smoke.py")


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _wait(is_reached: object, what: str, log: Path | None = None) -> None:
    assert callable(is_reached)
    until = time.monotonic() + LIMIT_SECONDS
    while not is_reached():
        assert time.monotonic() < until, f"{what} did not come: {_text(log)[-3000:] if log else ''}"
        time.sleep(0.5)
