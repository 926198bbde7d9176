"""Opening a file of weights by what is in it, whatever its name says."""

from collections.abc import Callable
from pathlib import Path

from jtl.errors import UserError
from jtl.weights.contract import TensorFile
from jtl.weights.formats import archive, flax_file, keras_file, npz, safetensors_file, sharded, torch_file

# Wrappers (data-parallel, compiled) put these in front of every name of a module.
WRAPPERS = ("module.", "_orig_mod.")
FIRST_BYTES = 64


def open_file(path: Path) -> TensorFile:
    """Open a file of tensors, or the shards of an index; nothing is executed, and no tensor is read yet.

    Raises:
        UserError: the file is empty, damaged, not weights, or wants code to be run.
    """
    return _unwrapped(_open(path))


def _open(path: Path) -> TensorFile:
    if not path.is_file():
        raise UserError(f"weights {str(path)!r} are not a file; {EXPECTED}")
    with path.open("rb") as stream:
        start = stream.read(FIRST_BYTES)
    opener = next((opener for is_this, opener in FORMATS if is_this(start, path)), None)
    if opener is None:
        raise UserError(f"{str(path)!r} holds no weights jtl can read: {described(start)}; {EXPECTED}")
    file = opener(path)
    if not file.tensors:
        raise UserError(f"{str(path)!r} ({file.format}) holds no tensors")
    return file


def described(start: bytes) -> str:
    """Return what a file that begins with these bytes looks like, for people."""
    for is_this, text in LOOKS:
        if is_this(start):
            return text
    return f"it starts with {start[:16]!r}"


def _unwrapped(file: TensorFile) -> TensorFile:
    """Return the file with its tensors' names without a wrapper's prefix, where all of them have it."""
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in file.tensors):
            raw_names = {name.removeprefix(prefix): file.raw_names.get(name, name) for name in file.tensors}
            tensors = {name.removeprefix(prefix): tensor for name, tensor in file.tensors.items()}
            return _unwrapped(file._replace(tensors=tensors, raw_names=raw_names))
    return file


def _is_npz(start: bytes, path: Path) -> bool:
    return start.startswith(b"PK\x03\x04") and not _is_torch_zip(start, path) and path.suffix != ".keras"


def _is_torch_zip(start: bytes, path: Path) -> bool:
    if not start.startswith(b"PK\x03\x04"):
        return False
    return any(name.rpartition("/")[2] == "data.pkl" for name in archive.entries(path))


def _is_pickle(start: bytes, path: Path) -> bool:
    return start[:1] == b"\x80" and len(start) > 1 and 2 <= start[1] <= 5


def _is_safetensors(start: bytes, path: Path) -> bool:
    # Eight bytes of header length, then the header's JSON. A file cut inside it is recognised by its name.
    return start[8:9] == b"{" or (
        path.suffix == ".safetensors" and not any(is_this(start) for is_this, _ in LOOKS)
    )


def _is_index(start: bytes, path: Path) -> bool:
    return path.name.endswith(sharded.INDEX_SUFFIX)


def is_web_page(start: bytes) -> bool:
    """Return whether a file that begins with these bytes is HTML or XML."""
    return start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml")


EXPECTED = (
    "expected safetensors, .npz, a PyTorch file (.pth, .pt, .th, .bin), Flax .msgpack, Keras .h5, or the "
    ".index.json of shards"
)
LOOKS: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (lambda start: not start, "it is empty"),
    (is_web_page, "it is a web page (a login or error page, saved in place of the weights?)"),
    (
        lambda start: start.startswith(b"version https://git-lfs"),
        "it is a Git LFS pointer; fetch the file itself",
    ),
    (
        lambda start: start.startswith(b"PK\x03\x04"),
        "it is a .keras archive; unpack it (it is a zip) and take its model.weights.h5",
    ),
    (lambda start: start.startswith(b"\x1f\x8b"), "it is gzip-compressed; unpack it first"),
    (lambda start: start.startswith(b"\x93NUMPY"), "it is one .npy array; expected an .npz of named arrays"),
    (lambda start: start.startswith(b"{"), "it is JSON text"),
)
FORMATS: tuple[tuple[Callable[[bytes, Path], bool], Callable[[Path], TensorFile]], ...] = (
    (_is_index, lambda path: sharded.open_index(path, _open)),
    (_is_torch_zip, torch_file.open_zip),
    (_is_npz, npz.open_npz),
    (_is_pickle, torch_file.open_legacy),
    (lambda start, path: start.startswith(b"\x89HDF"), keras_file.open_keras),
    (lambda start, path: flax_file.is_flax(start), flax_file.open_flax),
    (_is_safetensors, safetensors_file.open_safetensors),
)
