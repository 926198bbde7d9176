"""Reading Keras's HDF5 files: legacy weights and whole models (`.h5`), and Keras 3's `.weights.h5`.

Tensors are called "<layer>/<variable>". Keras 3 numbers the variables of a layer; their names follow from
what the layer is. Keras 3.15.1 wrote the files that this was checked with. What h5py reads is bounded here;
a heap of text whose free space has a wrong size makes HDF5's library itself (h5py 3.16) loop without end.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import UserError
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.formats.archive import one_line
from jtl.weights.report import shorten

# Keys of groups: a whole model's weights; Keras 3's variables; what is training's and not the model's.
WHOLE, VARIABLES, SEED = "model_weights", "vars", "seed_generator"
TRAINING = ("optimizer_weights", "optimizer")
LEGACY_NAMES, NAME = "layer_names", "name"
# Filters that are part of HDF5 or h5py; others would be loaded as plugins.
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
MAX_DEPTH, MAX_ITEMS = 32, 100_000
MAX_EXPANSION, FREE_BYTES = 16, 1 << 28
# What h5py raises for damaged content.
FAULTS = (OSError, ValueError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError)
INSTALL = "reading Keras files needs h5py: pip install 'jtl[keras]'"


def open_keras(path: Path) -> TensorFile:
    """Open a Keras file; where two layers have the same name, their tensors keep their whole paths.

    Raises:
        UserError: it is damaged, no Keras file, or leads outside of itself; or h5py is not installed.
    """
    with _opened(path) as file:
        try:
            return _open(file, path)
        except UserError:
            raise
        except FAULTS as error:
            raise UserError(
                f"{str(path)!r} ({path.stat().st_size} bytes) is a damaged HDF5 file: {one_line(error)}; get "
                f"it again"
            ) from error


def _open(file: Any, path: Path) -> TensorFile:
    is_whole = WHOLE in tuple(file) and _is_own(file, WHOLE)
    root = file[WHOLE] if is_whole else file
    is_legacy = is_whole or LEGACY_NAMES in file.attrs
    found = dict(_datasets(root, str(path)))
    is_keras_3 = not is_legacy and any(key.split("/")[-2:-1] == [VARIABLES] for key in found)
    if not is_legacy and not is_keras_3:
        raise UserError(
            f"{str(path)!r} is an HDF5 file, but not one of Keras: it holds "
            f"{shorten(map(repr, file), 4) or 'nothing'}; expected layers with their weights"
        )
    names = _unique(_keras_3_names(root, found) if is_keras_3 else _legacy_names(found))
    prefix = f"{root.name.rstrip('/')}/"
    tensors = {
        names[key]: Tensor(dataset.shape, dataset.dtype.name, partial(_read, path, prefix + key))
        for key, dataset in found.items()
        if key in names
    }
    return TensorFile(path, "Keras weights" if is_keras_3 else "Keras legacy HDF5", tensors)


def _opened(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{str(path)!r} is an HDF5 (Keras) file; {INSTALL}") from error
    try:
        return h5py.File(path, "r", locking=False)
    except FAULTS as error:
        raise UserError(
            f"{str(path)!r} ({path.stat().st_size} bytes) is no sound HDF5 file: {one_line(error)}; get it "
            f"again"
        ) from error


def _read(path: Path, key: str) -> np.ndarray:
    with _opened(path) as file:
        try:
            return file[key][()]
        except FAULTS as error:
            raise UserError(f"tensor {key!r} of {str(path)!r} cannot be read: {one_line(error)}") from error


def _datasets(root: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the datasets below a group by path, each checked to lie wholly in this file."""
    import h5py

    pending = [("", root, 0)]
    count = total = 0
    size = Path(where).stat().st_size
    while pending:
        prefix, group, depth = pending.pop(0)
        for key in group:
            count += 1
            if depth > MAX_DEPTH or count > MAX_ITEMS:
                raise UserError(f"{where!r} nests its groups without end; no Keras file does")
            if depth == 0 and key in TRAINING:
                continue
            if not _is_own(group, key):
                raise UserError(f"{where!r} has the link {prefix + key!r} to elsewhere; it is not followed")
            item = group[key]
            if isinstance(item, h5py.Group):
                pending.append((f"{prefix}{key}/", item, depth + 1))
                continue
            _check_plain(item, prefix + key, where)
            total += item.size * item.dtype.itemsize
            if total > MAX_EXPANSION * size + FREE_BYTES:
                raise UserError(f"{where!r} would expand to {total} bytes from {size}: no weights do")
            yield prefix + key, item


def _is_own(group: Any, key: str) -> bool:
    """Return whether an entry is part of this file, and no link to be followed."""
    import h5py

    return isinstance(group.get(key, getlink=True), h5py.HardLink)


def _check_plain(dataset: Any, key: str, where: str) -> None:
    """Raise UserError unless a dataset is numbers, kept in this file, compressed by HDF5's own filters."""
    what = f"dataset {key!r} of {where!r}"
    if not hasattr(dataset, "shape"):
        raise UserError(f"{what} is a named type, which no Keras file has")
    if dataset.shape is None or dataset.dtype.kind not in "fiub":
        raise UserError(f"{what} holds {dataset.dtype}, which is no tensor of numbers")
    if dataset.external or dataset.is_virtual:
        raise UserError(f"{what} keeps its values in another file; it is not followed")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if set(filters) - FILTERS.keys():
        raise UserError(
            f"{what} is compressed by filters {filters}; expected those of {', '.join(FILTERS.values())}"
        )


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """Return the names by path, where several are equal the paths themselves."""
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else key for key, name in names.items()}


def _legacy_names(datasets: Mapping[str, Any]) -> dict[str, str]:
    """Return "<layer>/<variable>" by path, whose last group is the layer however models nest.

    A depthwise layer's kernel has a name of its own only before Keras 3, and beside a pointwise one.

    >>> _legacy_names({"inner/dw/depthwise_kernel:0": ...})
    {'inner/dw/depthwise_kernel:0': 'dw/kernel'}
    """
    names = {}
    for key in datasets:
        *_, layer, variable = ("", *key.split("/"))
        names[key] = f"{layer}/{variable.partition(':')[0]}"
    known = set(names.values())
    for key, name in names.items():
        layer, _, variable = name.rpartition("/")
        if variable == DEPTHWISE and f"{layer}/{POINTWISE}" not in known:
            names[key] = f"{layer}/kernel"
    return names


def _keras_3_names(root: Any, datasets: Mapping[str, Any]) -> dict[str, str]:
    """Return "<layer>/<variable>" by path, without the states of random generators: no model needs them."""
    layers: dict[str, list[str]] = {}
    for key in datasets:
        layers.setdefault(key.rpartition("/")[0], []).append(key)
    names = {}
    for group, keys in layers.items():
        own = group.removesuffix(VARIABLES).rstrip("/").rpartition("/")[2]
        if own.startswith(SEED):
            continue
        layer = _layer_name(root[group].attrs if group else {}, own)
        keys = sorted(keys, key=lambda key: (len(key), key))
        variables = _variables(tuple(datasets[key].ndim for key in keys))
        numbers = [key.rpartition("/")[2] for key in keys]
        names |= {key: f"{layer}/{each}" for key, each in zip(keys, variables or numbers, strict=True)}
    return names


def _layer_name(attributes: Any, otherwise: str) -> str:
    """Return the name that Keras gave a layer; a damaged attribute can promise text without end."""
    if NAME not in attributes or attributes.get_id(NAME).shape != ():
        return otherwise
    name = attributes[NAME]
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _variables(ranks: tuple[int, ...]) -> tuple[str, ...]:
    """Return what a layer's variables of these ranks are called; () where that is not certain."""
    is_kernel = tuple(rank > 1 for rank in ranks)
    return VARIABLE_NAMES.get(is_kernel, ())


DEPTHWISE, POINTWISE = "depthwise_kernel", "pointwise_kernel"
# By which of a layer's variables are kernels and which are vectors.
VARIABLE_NAMES: dict[tuple[bool, ...], tuple[str, ...]] = {
    (True,): ("kernel",),
    (True, False): ("kernel", "bias"),
    (False, False): ("gamma", "beta"),
    (False, False, False, False): ("gamma", "beta", "moving_mean", "moving_variance"),
    (True, True): (DEPTHWISE, POINTWISE),
    (True, True, False): (DEPTHWISE, POINTWISE, "bias"),
}
