"""PyTorch files give what torch.load gives; hostile and damaged ones give one clear error and run nothing."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.weights.formats import torch_file, unpickle
from jtl.weights.formats.files import open_file

GOLDENS = Path(__file__).parents[1] / "goldens" / "weights"
MARKER = "this_file_would_be_made_by_running_the_pickle"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.fixture(autouse=True)
def _marker_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / MARKER).exists()


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def zip_of(content: bytes, *, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in members.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", data)
    return buffer.getvalue()


def legacy_of(content: bytes, storages: bytes = b"") -> bytes:
    head = (torch_file.MAGIC_NUMBER, torch_file.PROTOCOL_VERSION, {"little_endian": True})
    return b"".join(pickle.dumps(each, 2) for each in head) + content + pickle.dumps([], 2) + storages


def tensor_pickle(num_values: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """Return the pickle of {'x': tensor} over a float storage '0', as torch.save writes it."""

    def dump(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    storage = (
        b"("
        + dump("storage")
        + b"ctorch\nFloatStorage\n"
        + dump("0")
        + dump("cpu")
        + dump(num_values)
        + b"tQ"
    )
    tail = dump(offset) + dump(shape) + dump(strides) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"\x80\x02}" + dump("x") + REBUILD + b"(" + storage + tail + b"tRs."


@pytest.mark.parametrize("name", ["tensors_legacy.pt", "tensors_zip.pt"])
def test_every_tensor_equals_torch_load(name: str) -> None:
    file = open_file(GOLDENS / name)
    with np.load(GOLDENS / "tensors.npz") as golden:
        expected = {key: golden[key] for key in golden.files if key != "versions"}
    if name == "tensors_legacy.pt":
        expected.pop("float8")
    assert file.tensors.keys() == expected.keys()
    for key, tensor in file.tensors.items():
        found = tensor.read()
        assert (found.shape, found.dtype.name) == (tensor.shape, tensor.dtype)
        np.testing.assert_array_equal(found.astype(expected[key].dtype), expected[key], err_msg=key)
    assert "entry 'state_dict'" in file.format


def test_dtypes_are_the_files_own() -> None:
    tensors = open_file(GOLDENS / "tensors_zip.pt").tensors
    found = {
        key: tensors[key].dtype for key in ("whole", "bfloat16", "half", "double", "int64", "bool", "float8")
    }
    assert list(found.values()) == [
        "float32",
        "bfloat16",
        "float16",
        "float64",
        "int64",
        "bool",
        "float8_e4m3fn",
    ]


def test_hand_built_tensor_reads_through_its_strides(tmp_path: Path) -> None:
    data = np.arange(12, dtype=np.float32)
    (tmp_path / "x.pt").write_bytes(zip_of(tensor_pickle(12, 1, (2, 3), (1, 4)), _0=data.tobytes()))
    found = open_file(tmp_path / "x.pt").tensors["x"].read()
    np.testing.assert_array_equal(found, [[1, 5, 9], [2, 6, 10]])


def test_tensors_are_read_only_when_asked_for(tmp_path: Path) -> None:
    """A tensor that is never read may be damaged."""
    whole = bytearray(zip_of(tensor_pickle(4, 0, (4,), (1,)), _0=np.ones(4, np.float32).tobytes()))
    start = whole.index(np.ones(4, np.float32).tobytes())
    whole[start] ^= 1
    (tmp_path / "x.pt").write_bytes(bytes(whole))
    file = open_file(tmp_path / "x.pt")
    assert file.tensors["x"].shape == (4,)
    with pytest.raises(UserError, match="Bad CRC-32"):
        file.tensors["x"].read()


def test_averaged_weights_are_preferred_and_named(tmp_path: Path) -> None:
    content = tensor_pickle(1, 0, (1,), (1,))[2:-1]
    both = b"\x80\x02}(" + b"X\x05\0\0\0model" + content + b"X\x09\0\0\0model_ema" + content + b"u."
    (tmp_path / "x.pt").write_bytes(zip_of(both, _0=b"\0" * 4))
    assert open_file(tmp_path / "x.pt").format == "PyTorch zip, entry 'model_ema'"


HOSTILE_CALLS: dict[str, Any] = {
    "os.system": Calls(os.system, f"touch {MARKER}"),
    "builtins.exec": Calls(exec, f"open({MARKER!r}, 'w')"),
    "builtins.eval": Calls(eval, f"open({MARKER!r}, 'w')"),
    "builtins.open": Calls(open, MARKER, "w"),
    "builtins.getattr": Calls(getattr, "text", "upper"),
    "__import__": Calls(__import__, "antigravity"),
    "nested in a state dict": {"state_dict": OrderedDict(weight=Calls(os.system, f"touch {MARKER}"))},
    "an argument of an allowed call": Calls(OrderedDict, [("a", Calls(os.system, f"touch {MARKER}"))]),
    "pathlib": Calls(Path.touch, Path(MARKER)),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrap", [zip_of, legacy_of, lambda content: content], ids=["zip", "legacy", "bare"])
@pytest.mark.parametrize("name", HOSTILE_CALLS)
def test_pickled_calls_are_refused(
    tmp_path: Path, name: str, wrap: Callable[[bytes], bytes], protocol: int
) -> None:
    (tmp_path / "x.pth").write_bytes(wrap(pickle.dumps(HOSTILE_CALLS[name], protocol)))
    with pytest.raises(UserError, match="nothing was run") as caught:
        open_file(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


def test_the_same_pickles_do_run_in_python(tmp_path: Path) -> None:
    """The hostile pickles work: it is not for a mistake in them that nothing runs."""
    pickle.loads(pickle.dumps(HOSTILE_CALLS["os.system"]))
    assert (tmp_path / MARKER).exists()
    (tmp_path / MARKER).unlink()


HOSTILE_OPCODES: dict[str, bytes] = {
    "old class instance": b"\x80\x02(S'touch " + MARKER.encode() + b"'\nios\nsystem\n.",
    "object of a class": b"\x80\x02(cos\nsystem\nS'x'\no.",
    "extension registry": b"\x80\x02\x82\x01.",
    "keyword construction": b"\x80\x04cos\nsystem\n)}\x92.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "persistent text": b"\x80\x02Pstorage\n.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
    "dotted global": b"\x80\x04\x8c\x05torch\x8c\x11serialization.os.\x93.",
    "call of data": b"\x80\x02]X\x01\0\0\0a\x85R.",
    "call of a storage": tensor_pickle(1, 0, (1,), (1,)).replace(REBUILD, b"ctorch\nFloatStorage\n"),
    "state for nothing": b"\x80\x02}b.",
    "pop of nothing": b"\x80\x020.",
    "mark as a value": b"\x80\x02(\x85.",
    "unknown memo": b"\x80\x02h\x07.",
    "huge memo index": b"\x80\x02}r\xff\xff\xff\x7f.",
    "huge string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"abc.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "huge number": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "no end": b"\x80\x02}",
    "no dict": b"\x80\x02K\x01.",
    "no tensors": b"\x80\x02}X\x01\0\0\0aK\x01s.",
    "items for a number": b"\x80\x02K\x01K\x02K\x03s.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "nested tuple key": b"\x80\x02}" + b"K\x01" + b"q\x00h\x00\x86" * 200 + b"K\x01s.",
    "dict in itself": b"\x80\x02}q\x00X\x0a\0\0\0state_dicth\x00s.",
    "many dicts of dicts": b"\x80\x02}q\x00"
    + b"".join(
        b"}q%c(X\x01\0\0\0ah%cX\x01\0\0\0bh%cX\x01\0\0\0ch%cu" % (i, i - 1, i - 1, i - 1)
        for i in range(1, 15)
    )
    + b"}X\x0a\0\0\0state_dicth\x0es.",
    "huge storage": tensor_pickle(1 << 50, 0, (1 << 50,), (1,)),
    "path as storage": tensor_pickle(1, 0, (1,), (1,)).replace(b"X\x01\0\0\x000", b"X\x06\0\0\0../../"),
    "rebuilt by a name": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(X\x01\0\0\0aNN)tR.",
}


@pytest.mark.parametrize("name", HOSTILE_OPCODES)
@pytest.mark.parametrize("wrap", [zip_of, legacy_of], ids=["zip", "legacy"])
def test_hostile_opcodes_give_one_error(tmp_path: Path, name: str, wrap: Callable[[bytes], bytes]) -> None:
    (tmp_path / "x.pth").write_bytes(wrap(HOSTILE_OPCODES[name]))
    with pytest.raises(UserError) as caught:
        open_file(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
    assert "x.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (4, (1,), (1,), "outside its storage of 4 values"),
        (0, (5,), (1,), "outside its storage of 4 values"),
        (0, (2, 2), (3, 2), "outside its storage of 4 values"),
        (0, (1 << 40,), (0,), "outside its storage of 4 values"),
        (0, (1 << 32, 1 << 32), (1, 1), "outside its storage of 4 values"),
        (0, (2,), (1, 1), "other strides than dimensions"),
        (-1, (1,), (1,), "a size of -1"),
        (0, (2,), (-1,), "a size of -1"),
        (0, (-2, -2), (1, 1), "a size of -2"),
    ],
)
def test_views_stay_inside_their_storage(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], message: str
) -> None:
    (tmp_path / "x.pth").write_bytes(zip_of(tensor_pickle(4, offset, shape, strides), _0=bytes(16)))
    with pytest.raises(UserError, match=message):
        open_file(tmp_path / "x.pth")


def test_nothing_in_the_table_of_names_can_run_anything() -> None:
    """Every stand-in is of this package (or `tuple`), and makes plain records."""
    for name, function in torch_file.GLOBALS.items():
        inner = getattr(function, "func", function)
        assert inner is tuple or inner.__module__ == torch_file.__name__, name


def test_script_arguments_and_scalars_become_inert() -> None:
    content = (GOLDENS / "tensors_legacy.pt").read_bytes()
    stream = io.BytesIO(content)
    loaded = [unpickle.load(stream, torch_file.GLOBALS, lambda key: key, "a file") for _ in range(3)]
    assert loaded[0] == torch_file.MAGIC_NUMBER


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    content = zip_of(tensor_pickle(4, 0, (4,), (1,)), compression=zipfile.ZIP_DEFLATED, _0=b"\0" * 16)
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"is no file of torch\.save: .* is compressed"):
        open_file(tmp_path / "x.pth")


def test_missing_and_short_storages_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(zip_of(tensor_pickle(4, 0, (4,), (1,)), _0=b"\0" * 8))
    with pytest.raises(UserError, match=r"storage '0' of .* has 8 bytes; expected 16"):
        open_file(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(zip_of(tensor_pickle(4, 0, (4,), (1,))))
    with pytest.raises(UserError, match="has 0 bytes; expected 16"):
        open_file(tmp_path / "x.pth")


def test_whole_pickled_model_is_refused_by_its_class(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(zip_of(b"\x80\x02ctorchvision.models.resnet\nResNet\n)\x81."))
    with pytest.raises(
        UserError, match=r"wants to call or build 'torchvision.models.resnet.ResNet'.*state_dict"
    ):
        open_file(tmp_path / "x.pth")


def test_settings_of_trainers_beside_a_model_are_passed_over(tmp_path: Path) -> None:
    """What is in them is neither made nor needed."""
    content = tensor_pickle(1, 0, (1,), (1,))[2:-1]
    kept = b"cpytorch_lightning.utilities.parsing\nAttributeDict\n)\x81(X\x02\0\0\0lrK\x01u"
    counts = b"ccollections\ndefaultdict\ncbuiltins\nlist\n\x85R(X\x01\0\0\0a]u"
    both = b"\x80\x02}(" + b"X\x05\0\0\0model" + content + b"X\x04\0\0\0args" + kept
    both += b"X\x06\0\0\0counts" + counts + b"u."
    (tmp_path / "x.pt").write_bytes(zip_of(both, _0=b"\0" * 4))
    assert list(open_file(tmp_path / "x.pt").tensors) == ["x"]
