"""What is left out of a file costs no memory: the peak stays within 1.2 times the tensors that are kept."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import flax.serialization
import h5py
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

NUM_TENSORS, NUM_VALUES = 24, 1 << 21
FILE_BYTES = NUM_TENSORS * NUM_VALUES * 4
MAX_RATIO = 1.2
STATUS = Path("/proc/self/status")

# Run for one file in a process of its own: what others leave, at once or late, is not measured with it. The
# kernel counts resident memory, whoever asked for it; "5" sets its peak to what is resident now.
MEASURE = """
import sys
from pathlib import Path
from jtl.weights.open import open_path
import h5py, tensorstore

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
tensors = list(open_path(Path(sys.argv[1])).tensors.values())
kept = [tensor.read() for tensor in tensors[::2]]
kept_bytes = sum(array.nbytes for array in kept)
print((resident("VmHWM") - before) / kept_bytes)
assert len(tensors) == 24 and len({array.flat[0] for array in kept}) == 12
assert kept_bytes == int(sys.argv[2])
"""

Arrays = dict[str, np.ndarray]


def save_npz(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def save_msgpack(path: Path, arrays: Arrays) -> None:
    path.write_bytes(flax.serialization.to_bytes(arrays))


def save_orbax(path: Path, arrays: Arrays) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, arrays)


def save_keras(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = list(arrays)
        for name, array in arrays.items():
            file[f"{name}/{name}/kernel:0"] = array


def save_shards(path: Path, arrays: Arrays) -> None:
    path.mkdir()
    shards = {name: f"{int(name) % 4}.safetensors" for name in arrays}
    for shard in set(shards.values()):
        save_file({name: array for name, array in arrays.items() if shards[name] == shard}, path / shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def save_torch(path: Path, arrays: Arrays) -> None:
    """Write the zip of torch.save, whose pickle rebuilds every tensor from a storage of its own."""

    def dump(value: object) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    items = b""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(f"archive/data/{name}", array.tobytes())
            kind = dump("storage") + b"ctorch\nFloatStorage\n" + dump(name) + dump("cpu")
            storage = b"(" + kind + dump(array.size) + b"tQ"
            view = dump(0) + dump(array.shape) + dump((1,)) + b"\x89ccollections\nOrderedDict\n)R"
            items += dump(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"tRs"
        archive.writestr("archive/data.pkl", b"\x80\x02}" + items + b".")


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {
    "x.safetensors": lambda path, arrays: save_file(arrays, path),
    "x.npz": save_npz,
    "x.pt": save_torch,
    "x.msgpack": save_msgpack,
    "x.h5": save_keras,
    "orbax": save_orbax,
    "shards": save_shards,
}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    if not STATUS.is_file():
        pytest.skip("peak memory is read from Linux's /proc")
    return {str(index): np.arange(NUM_VALUES, dtype=np.float32) + index for index in range(NUM_TENSORS)}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_half_a_file_takes_half_its_memory(arrays: Arrays, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, arrays)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(FILE_BYTES // 2)],
        # What is freed goes back at once: the kernel's peak is then what was held, not what was kept to hand.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path)
    assert 0.95 < float(done.stdout) < MAX_RATIO
