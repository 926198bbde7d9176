"""Reading PyTorch files without PyTorch: the zip format (since 1.6) and the plain pickles before it.

The structure comes from `unpickle`, which runs nothing; tensors are views into storages, checked to lie
inside them, and read from the file when asked for.
"""

import io
import mmap
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jtl.errors import UserError
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.formats import archive, unpickle
from jtl.weights.report import shorten

# torch/serialization.py: what a legacy file begins with, and the version of its layout.
MAGIC_NUMBER, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001
COUNT_BYTES = 8
MAX_PICKLE_BYTES = 1 << 28
# Where training scripts keep the model's tensors, in the order of preference: averages first (as timm).
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher")
# Where they keep their settings.
SETTINGS = ("hyper_parameters", "args", "config")
MAX_DEPTH, MAX_TENSORS = 16, 200_000

DTYPES: dict[str, np.dtype] = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
    # Untyped storages count bytes; the tensors in them name their own dtype.
    "torch.storage.UntypedStorage": np.dtype(np.uint8),
    "torch.uint16": np.dtype(np.uint16),
    "torch.uint32": np.dtype(np.uint32),
    "torch.uint64": np.dtype(np.uint64),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "torch.float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "torch.float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


class Storage(NamedTuple):
    """A run of numbers in the file."""

    key: str
    dtype: np.dtype
    num_values: int


class View(NamedTuple):
    """A tensor: a checked view into a storage, strides counted in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def open_zip(path: Path) -> TensorFile:
    """Open a file that `torch.save` wrote since PyTorch 1.6.

    Raises:
        UserError: the archive is damaged or compressed, or its pickle holds more than data.
    """
    entries = archive.entries(path)
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise UserError(f"{str(path)!r} holds {len(pickles)} pickles; expected one")
    compressed = [name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED]
    if compressed or entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise UserError(
            f"{str(path)!r} is no file of torch.save: {shorten(compressed or pickles, 2)} is compressed "
            f"or too large"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and archive.member(path, f"{folder}byteorder") != b"little":
        raise UserError(f"{str(path)!r} was written big-endian, which is not read")
    content = archive.member(path, pickles[0])
    root = unpickle.load(io.BytesIO(content), GLOBALS, _storage, _what(path))
    found = _state_dict(root, path)

    def read_storage(storage: Storage) -> bytes:
        return archive.member(path, f"{folder}data/{storage.key}")

    def check(storage: Storage) -> None:
        entry = entries.get(f"{folder}data/{storage.key}")
        size = 0 if entry is None else entry.file_size
        if size < storage.num_values * storage.dtype.itemsize:
            raise UserError(
                f"storage {storage.key!r} of {str(path)!r} has {size} bytes; expected "
                f"{storage.num_values * storage.dtype.itemsize}: truncated? Get it again"
            )

    return _file(path, "PyTorch zip", found, _tensors(found.views, read_storage, check))


def open_legacy(path: Path) -> TensorFile:
    """Open a file that `torch.save` wrote before PyTorch 1.6: pickles, then the storages one after another.

    Raises:
        UserError: it is another kind of pickle, damaged, or holds more than data.
    """
    what = _what(path)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        storages: dict[str, Storage] = {}
        load = partial(unpickle.load, view, GLOBALS, partial(_noted, storages), what)
        if load() != MAGIC_NUMBER:
            raise UserError(f"{what} is a pickle, but not one of PyTorch's; {unpickle.REFUSED}")
        version, system = load(), load()
        if (
            version != PROTOCOL_VERSION
            or not isinstance(system, dict)
            or system.get("little_endian") is not True
        ):
            raise UserError(
                f"{what} has layout {version!r} on {system!r}; expected {PROTOCOL_VERSION}, little-endian"
            )
        root, keys = load(), load()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise UserError(f"{what} lists no storages; get it again")
        starts = _legacy_starts(view, keys, storages, what)
    found = _state_dict(root, path)

    def read_storage(storage: Storage) -> bytes:
        with path.open("rb") as stream:
            stream.seek(starts[storage.key])
            return stream.read(storage.num_values * storage.dtype.itemsize)

    def check(storage: Storage) -> None:
        if storage.key not in starts:
            raise UserError(f"{what} lacks storage {storage.key!r}: truncated? Get it again")

    return _file(path, "PyTorch pickle", found, _tensors(found.views, read_storage, check))


def _legacy_starts(
    view: mmap.mmap, keys: list[str], storages: Mapping[str, Storage], what: str
) -> dict[str, int]:
    """Return where each storage's numbers start: every one follows its count of values."""
    starts = {}
    for key in keys:
        count = int.from_bytes(view.read(COUNT_BYTES), "little", signed=True)
        storage = storages.get(key)
        # A storage no tensor uses has no known dtype, so what follows it cannot be found.
        if storage is None or count != storage.num_values:
            raise UserError(
                f"{what} has storages its tensors do not describe; get it again, or save it as safetensors"
            )
        starts[key] = view.tell()
        end = starts[key] + count * storage.dtype.itemsize
        if end > len(view):
            raise UserError(f"{what} has {len(view)} bytes; expected at least {end}: truncated? Get it again")
        view.seek(end)
    return starts


class _Found(NamedTuple):
    """All tensors of a file by dotted name, and which entry of it is the model's ("": all there is)."""

    views: Mapping[str, View]
    entry: str
    called: tuple[str, ...]


def _file(path: Path, title: str, found: _Found, tensors: Mapping[str, Tensor]) -> TensorFile:
    if not found.entry:
        return TensorFile(path, title, tensors, called=found.called)
    under = f"{found.entry}."
    raw_names = {name.removeprefix(under): name for name in tensors if name.startswith(under)}
    return TensorFile(
        path,
        f"{title}, entry {found.entry!r}",
        {name: tensors[raw] for name, raw in raw_names.items()},
        others={name: tensor for name, tensor in tensors.items() if not name.startswith(under)},
        raw_names=raw_names,
        called=found.called,
    )


def _tensors(
    named: Mapping[str, View], read_storage: Callable[[Storage], bytes], check: Callable[[Storage], None]
) -> dict[str, Tensor]:
    for view in named.values():
        check(view.storage)
    return {
        name: Tensor(view.shape, view.storage.dtype.name, partial(_read, view, read_storage))
        for name, view in named.items()
    }


def _read(view: View, read_storage: Callable[[Storage], bytes]) -> np.ndarray:
    dtype = view.storage.dtype
    values = np.frombuffer(read_storage(view.storage), dtype, view.storage.num_values)[view.offset :]
    strides = [stride * dtype.itemsize for stride in view.strides]
    return np.array(np.lib.stride_tricks.as_strided(values, view.shape, strides, writeable=False), order="C")


def _state_dict(root: Any, path: Path) -> _Found:
    """Return all tensors of a file, and which entry is the model's by what training scripts call it."""
    if not isinstance(root, dict):
        raise UserError(
            f"{_what(path)} holds a {type(root).__name__}; expected a dict of tensors (a state_dict)"
        )
    views = _named_views(root, path)
    called = tuple(name for about in (root, *map(root.get, SETTINGS)) for name in archive.called(about))
    for key in CONTAINERS:
        if isinstance(root.get(key), dict) and any(name.startswith(f"{key}.") for name in views):
            return _Found(views, key, called)
    if views:
        return _Found(views, "", called)
    entries = shorten((repr(key) for key in root if isinstance(key, str)), 8)
    raise UserError(
        f"{_what(path)} holds the entries {entries or 'none'} and no tensors among them; expected a "
        f"state_dict, alone or as one of {', '.join(map(repr, CONTAINERS))}"
    )


def _named_views(tree: Mapping[Any, Any], path: Path) -> dict[str, View]:
    """Return the tensors of nested dicts and lists by dotted name."""
    found: dict[str, View] = {}
    pending: list[tuple[str, Any, int]] = [(str(key), value, 1) for key, value in tree.items()]
    for count, (name, value, depth) in enumerate(pending):
        if isinstance(value, View):
            if name in found:
                raise UserError(f"{_what(path)} holds two tensors named {name!r}")
            found[name] = value
        elif isinstance(value, dict | list):
            # A dict can hold itself, or the same dict many times over.
            if depth > MAX_DEPTH or count > MAX_TENSORS or len(value) > MAX_TENSORS:
                raise UserError(f"{_what(path)} nests its tensors without end; {unpickle.REFUSED}")
            inner_values = value.items() if isinstance(value, dict) else enumerate(value)
            pending += [(f"{name}.{key}", inner, depth + 1) for key, inner in inner_values]
    return found


def _storage(persistent_id: Any) -> Storage:
    """Return the storage a persistent id names: ("storage", type, key, device, number of values[, view])."""
    kind, dtype, key, _, num_values, *view = persistent_id
    if kind != "storage" or not isinstance(dtype, partial) or view not in ([], [None]):
        raise ValueError("a persistent id that is no storage")
    return Storage(_text(key), dtype(), _size(num_values))


def _noted(storages: dict[str, Storage], persistent_id: Any) -> Storage:
    """Return the storage of a persistent id, and note it: a legacy file's layout follows from all of them."""
    storage = _storage(persistent_id)
    return storages.setdefault(storage.key, storage)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> View:
    """Return the view, checked to lie inside its storage and not to be larger than it.

    `rest` is what a view does not need: gradients, hooks, metadata.
    """
    shape, strides = tuple(map(_size, shape)), tuple(map(_size, strides))
    if type(storage) is not Storage or len(shape) != len(strides):
        raise ValueError("a tensor without storage, or with other strides than dimensions")
    num_values = int(np.prod(shape, dtype=object)) if shape else 1
    last = _size(offset) + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if num_values and (last >= storage.num_values or num_values > storage.num_values):
        raise ValueError(f"a tensor of shape {shape} outside its storage of {storage.num_values} values")
    return View(storage, offset if num_values else 0, shape, strides)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, dtype: Any, *rest: Any
) -> View:
    """Return a view in a dtype that has no storage type of its own."""
    if type(storage) is not Storage or not isinstance(dtype, partial):
        raise ValueError("a tensor without storage, or of unknown dtype")
    values = Storage(storage.key, dtype(), storage.num_values * storage.dtype.itemsize // dtype().itemsize)
    return _rebuild_tensor(values, offset, shape, strides)


def _rebuild_parameter(data: Any, *rest: Any) -> View:
    if type(data) is not View:
        raise ValueError("a parameter without a tensor")
    return data


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> View:
    """Return a tensor that had Python attributes; `function` is one of the rebuilders here."""
    if function not in (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_parameter):
        raise ValueError("a tensor rebuilt by something else")
    return function(*arguments)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 60:
        raise ValueError(f"a size of {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or "/" in value:
        raise ValueError("a storage without a plain name")
    return value


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return {key: value for key, value in items if isinstance(key, str)}


def _dtype_of(dtype: np.dtype) -> np.dtype:
    return dtype


def _inert(name: str, *arguments: Any) -> unpickle.Inert:
    return unpickle.Inert(name)


def _what(path: Path) -> str:
    return f"PyTorch file {str(path)!r}"


INERT = (
    *("argparse.Namespace", "torch.device", "torch.nn.parameter.Parameter", "torch.Tensor"),
    *("numpy.dtype", "numpy.ndarray", "_codecs.encode"),
    # What trainers keep beside the model: settings and counters of Lightning, MMEngine and their like.
    *("collections.defaultdict", "collections.deque", "builtins.set", "builtins.list", "builtins.dict"),
    *("pytorch_lightning.utilities.parsing.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
    *("lightning_fabric.utilities.data.AttributeDict", "mmengine.logging.history_buffer.HistoryBuffer"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(
        f"torch.{name}"
        for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
    ),
)
GLOBALS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    **{name: partial(_dtype_of, dtype) for name, dtype in DTYPES.items()},
    **{name: partial(_inert, name) for name in INERT},
}
