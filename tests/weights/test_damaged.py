"""Files that are cut, changed or something else give one clear line, whatever their kind."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.weights.files import open_file
from tests.weights import writing

GOLDENS = Path(__file__).parents[1] / "goldens" / "weights"
NUM_FUZZED = 300


def sound_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of one small sound file of every kind."""
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}
    writing.save_safetensors(folder / "x", arrays)
    writing.save_npz(folder / "x.npz", arrays)
    np.savez_compressed(folder / "y.npz", **arrays)
    return {
        "safetensors": (folder / "x").read_bytes(),
        "npz": (folder / "x.npz").read_bytes(),
        "compressed npz": (folder / "y.npz").read_bytes(),
        "torch zip": (GOLDENS / "tensors_zip.pt").read_bytes(),
        "torch legacy": (GOLDENS / "tensors_legacy.pt").read_bytes(),
    }


KINDS = ("safetensors", "npz", "compressed npz", "torch zip", "torch legacy")


def open_and_read(path: Path) -> None:
    """Open a file and read all of it."""
    for tensor in open_file(path).tensors.values():
        assert tensor.read().shape == tensor.shape


def assert_clear(error: UserError, path: Path) -> None:
    """A fault is one line that names the file."""
    assert "\n" not in str(error)
    assert path.name in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_file_is_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(sound_files(tmp_path)[kind])
    open_and_read(tmp_path / "file")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file_is_one_error(tmp_path: Path, kind: str, part: float) -> None:
    content = sound_files(tmp_path)[kind]
    name = "cut.safetensors" if kind == "safetensors" else "cut.pth"
    (tmp_path / name).write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError) as caught:
        open_and_read(tmp_path / name)
    assert_clear(caught.value, tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # zipfile and numpy warn of what they then read or refuse
@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes_give_the_error_or_tensors_but_never_a_crash(tmp_path: Path, kind: str) -> None:
    content = sound_files(tmp_path)[kind]
    random = np.random.default_rng(0)
    for _ in range(NUM_FUZZED):
        changed = np.frombuffer(content, np.uint8).copy()
        positions = random.integers(0, len(changed), random.integers(1, 4))
        changed[positions] = random.integers(0, 256, len(positions))
        (tmp_path / "fuzzed").write_bytes(changed.tobytes())
        try:
            open_and_read(tmp_path / "fuzzed")
        except UserError as error:
            assert_clear(error, tmp_path / "fuzzed")


def safetensors_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(*offsets: int, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD_SAFETENSORS = {
    "overlapping": safetensors_of({"a": entry(0, 4), "b": entry(0, 4)}, b"\0" * 4),
    "outside": safetensors_of({"a": entry(0, 400, shape=(100,))}, b"\0" * 4),
    "hole": safetensors_of({"a": entry(4, 8)}, b"\0" * 8),
    "backwards": safetensors_of({"a": entry(4, 0)}, b"\0" * 4),
    "wrong shape": safetensors_of({"a": entry(0, 4, shape=(2,))}, b"\0" * 4),
    "overflowing shape": safetensors_of({"a": entry(0, 4, shape=(1 << 62, 8))}, b"\0" * 4),
    "unknown dtype": safetensors_of({"a": entry(0, 4, dtype="PICKLE")}, b"\0" * 4),
    "header too long": struct.pack("<Q", 1 << 40) + b"{}",
    "header of 100 MB": struct.pack("<Q", 100_000_001) + b"{" + b" " * 100,
    "header no JSON": safetensors_of(b"{nonsense}"),
    "header a list": safetensors_of(b"{ []"),
    "deep header": safetensors_of(b'{"a":' * 5000),
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_hostile_safetensors_header_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(BAD_SAFETENSORS[name])
    with pytest.raises(UserError, match="is no sound safetensors file"):
        open_and_read(tmp_path / "x.safetensors")


def test_truncated_safetensors_tells_both_sizes(tmp_path: Path) -> None:
    content = sound_files(tmp_path)["safetensors"]
    (tmp_path / "x.safetensors").write_bytes(content[:-5])
    with pytest.raises(
        UserError, match=f"has {len(content) - 5} bytes and its header promises {len(content)}"
    ):
        open_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"\n<html>login", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n", "is no sound HDF5 file"),
        (b"\x1f\x8b\x08", "it is gzip-compressed"),
        (b'{"error": "not found"}', "it is JSON text"),
        (b"\x93NUMPY\x01\0", "it is one .npy array"),
        (b"nonsense", "it starts with b'nonsense'"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_something_else_is_named(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    if content == b"nonsense" and suffix == ".safetensors":
        message = "is no sound safetensors file"
    with pytest.raises(UserError, match=message):
        open_file(path)


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    for index, (kind, content) in enumerate(sound_files(tmp_path).items()):
        path = tmp_path / f"{index}.h5"
        path.write_bytes(content)
        assert open_file(path).format.split(",")[0].lower() in {kind, "npz", "pytorch zip", "pytorch pickle"}


def npz_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            npz_of(a=npy_of(np.array([{"a": 1}], dtype=object))),
            "holds pickled Python objects, which are not read",
        ),
        (npz_of(a=b"not an array"), "is no plain array"),
        (
            npz_of(a=npy_of(np.ones(4, np.float32))[:-4]),
            r"has 12 bytes; its shape \(4,\) and dtype float32 need 16",
        ),
        (npz_of(a=npy_of(np.ones(4)).replace(b"(4,)", b"(-4)")), "is no plain array"),
        (npz_of(a=b"\x93NUMPY\x01\0\x10\x27" + b"(" * 10000), "is no plain array"),
        (npz_of(**{"params/a": npy_of(np.ones(1)), "a": npy_of(np.ones(1))}), "differ only by the prefix"),
        (npz_of(a=bytes(300_000_000)), "would expand to 300000000 bytes"),
    ],
)
def test_hostile_npz_is_one_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_and_read(tmp_path / "x.npz")
