"""Files that are cut, changed or something else give one clear line, whatever their kind."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import h5py
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.weights.formats.files import open_file
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
        "flax msgpack": flax.serialization.to_bytes({"params": arrays, "step": 3}),
        "keras legacy hdf5": keras_of({"layer/a": arrays["a"], "layer/b": arrays["b"]}),
        "keras weights": (GOLDENS / "keras_3.weights.h5").read_bytes(),
    }


def keras_of(datasets: dict[str, Any], **settings: Any) -> bytes:
    """Return a legacy file of Keras with these variables."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = ["layer"]
        for name, array in datasets.items():
            file.create_dataset(name, data=array, **settings)
    return buffer.getvalue()


KINDS = (
    *("safetensors", "npz", "compressed npz", "torch zip", "torch legacy", "flax msgpack"),
    *("keras legacy hdf5", "keras weights"),
)


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
@pytest.mark.parametrize(
    "kind", [pytest.param(each, marks=[pytest.mark.slow] * (each == "keras weights")) for each in KINDS]
)
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
        path = tmp_path / f"{index}.any"
        path.write_bytes(content)
        known = {kind, "npz", "pytorch zip", "pytorch pickle"}
        assert open_file(path).format.split(",")[0].lower() in known


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


def hdf5_with(build: Callable[[h5py.File], Any]) -> bytes:
    """Return a legacy file of Keras with one variable, and what is built beside it."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = ["layer"]
        file["layer/kernel"] = np.ones(3, np.float32)
        build(file)
    return buffer.getvalue()


def of_other_files(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    file.create_virtual_dataset("layer/virtual", layout)


def cycle(file: h5py.File) -> None:
    file["layer/again"] = file["layer"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda file: file.__setitem__("layer/x", h5py.ExternalLink("other.h5", "/x")),
            "link 'layer/x' to else",
        ),
        (
            lambda file: file.__setitem__("model_weights", h5py.ExternalLink("o.h5", "/")),
            "link 'model_weights'",
        ),
        (
            lambda file: file.__setitem__("layer/x", h5py.SoftLink("/layer/kernel")),
            "link 'layer/x' to elsewhere",
        ),
        (of_other_files, "'layer/virtual' .*keeps its values in another file"),
        (
            lambda file: file.create_dataset(
                "layer/x", (3,), np.float32, external=[("other.bin", 0, h5py.h5f.UNLIMITED)]
            ),
            "'layer/x' .*keeps its values in another file",
        ),
        (lambda file: file.__setitem__("layer/x", "text"), "'layer/x' .*holds object, which is no tensor"),
        (lambda file: file.__setitem__("layer/x", h5py.Empty("f")), "'layer/x' .*which is no tensor"),
        (lambda file: file.__setitem__("layer/x", np.dtype("f4")), "'layer/x' .*is a named type"),
        (
            lambda file: file.create_dataset("layer/x", (1 << 40,), np.float32, chunks=(1 << 20,)),
            "would expand to 4398046511116 bytes from",
        ),
        (
            lambda file: file.create_dataset("layer/x", (9,), "f4", scaleoffset=2),
            r"compressed by filters \[6\]",
        ),
        (cycle, "nests its groups without end"),
    ],
)
def test_hostile_hdf5_is_one_error(tmp_path: Path, build: Callable[[h5py.File], Any], message: str) -> None:
    (tmp_path / "x.h5").write_bytes(hdf5_with(build))
    with pytest.raises(UserError, match=message) as caught:
        open_and_read(tmp_path / "x.h5")
    assert_clear(caught.value, tmp_path / "x.h5")


def test_hdf5_that_is_no_keras_file_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"], file["labels"] = np.ones(3), np.ones(3)
    with pytest.raises(
        UserError, match=r"is an HDF5 file, but not one of Keras: it holds 'images', 'labels'"
    ):
        open_file(tmp_path / "x.h5")


def array_of(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    """Return Flax's extension for an array of msgpack parts; lengths below 256."""
    inner = b"\x93" + shape + dtype + content
    return b"\xc7" + bytes([len(inner), 1]) + inner


F32, TWO = b"\xa7float32", b"\x91\x02"
BAD_MSGPACK = {
    "array too long": (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "4294967295 bytes should follow byte 9"),
    "text too long": (b"\x81\xdb\xff\xff\xff\xff", "it is cut: 4294967295 bytes should follow"),
    "map too long": (b"\xdf\xff\xff\xff\xff\xa1a\xc0", "it is cut"),
    "list too long": (b"\x81\xa1a\xdd\xff\xff\xff\xff", "it is cut"),
    "shape too large": (
        b"\x81\xa1a" + array_of(b"\x91\xcf\x0f" + b"\xff" * 7, F32, b"\xc4\x04abcd"),
        "and float32 has 4 bytes; expected",
    ),
    "shape below zero": (b"\x81\xa1a" + array_of(b"\x91\xff", F32, b"\xc4\x00"), "the shape of 'a' holds"),
    "shape no numbers": (b"\x81\xa1a" + array_of(b"\x91\xa1x", F32, b"\xc4\x00"), "holds a text of 1"),
    "shape of other size": (b"\x81\xa1a" + array_of(TWO, F32, b"\xc4\x04abcd"), "has 4 bytes; expected 8"),
    "dtype of objects": (b"\x81\xa1a" + array_of(TWO, b"\xa6object", b"\xc4\x00"), "has dtype 'object'"),
    "array in array": (b"\x81\xa1a\xc7\x05\x01\x93\x90\xa1x\xc0", "has dtype 'x'"),
    "no parts": (b"\x81\xa1a\xc7\x02\x01\x90\xc0", "is not .shape, dtype, bytes."),
    "name twice": (b"\x82\xa1a\xc0\xa1a\xc0", "holds 'a' twice"),
    "deep": (b"\x81\xa1a" * 5000, "nests over 64 deep"),
    "deep lists": (b"\x81\xa1a" + b"\x91" * 5000, "nests over 64 deep"),
    "reserved byte": (b"\x81\xa1a\xc1", "byte 3 is 0xc1"),
    "more behind": (b"\x81\xa1a\xc0\xc0", "its map ends at byte 4"),
    "name no text": (b"\x82\xa1a\xc0\x05\xc0", "at byte 4 is a number of size 5; expected a name"),
    "name no unicode": (b"\x81\xa1\xff\xc0", "UnicodeDecodeError"),
    "no tensors": (b"\x81\xa1a\xc0", "holds no tensors"),
    "chunks too few": (
        b"\x81\xa1a\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\xce\xff\xff\xff\xff\xa6chunks\x80",
        "has no chunks",
    ),
    "chunks of other size": (
        b"\x81\xa1a\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x05\xa6chunks\x81\xa10"
        + array_of(b"\x91\x01", F32, b"\xc4\x04abcd"),
        r"the chunks of 'a' hold 1 values; its shape \(5,\) needs 5",
    ),
    "chunks of what is no array": (
        b"\x81\xa1a\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x80\xa6chunks\x81\xa10\xc0",
        "'a' is no array",
    ),
}


@pytest.mark.parametrize("name", BAD_MSGPACK)
def test_hostile_msgpack_is_one_error(tmp_path: Path, name: str) -> None:
    content, message = BAD_MSGPACK[name]
    (tmp_path / "x.msgpack").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        open_and_read(tmp_path / "x.msgpack")
    assert_clear(caught.value, tmp_path / "x.msgpack")
