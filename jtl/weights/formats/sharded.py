"""Weights cut into several files, and the index (JSON) that says which tensor lies in which."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jtl.errors import UserError
from jtl.weights.contract import Tensor, TensorFile
from jtl.weights.report import shorten

INDEX_SUFFIX = ".index.json"
# A hundred thousand tensors.
MAX_INDEX_BYTES = 32_000_000
MAX_SHARDS = 1000
SHOWN = 3

Open = Callable[[Path], TensorFile]


def open_index(path: Path, open_shard: Open) -> TensorFile:
    """Open the shards of an index as one file; none of their tensors is read yet.

    Raises:
        UserError: the index is damaged or leads outside its folder, or a shard is missing, damaged, or holds
            other tensors than the index says.
    """
    names_of: dict[str, list[str]] = {}
    for tensor, shard in weight_map(path).items():
        names_of.setdefault(shard, []).append(tensor)
    tensors: dict[str, Tensor] = {}
    formats = set()
    for shard, names in names_of.items():
        file = open_shard(path.with_name(shard))
        formats.add(file.format)
        missing = [name for name in names if name not in file.tensors]
        if missing:
            raise UserError(
                f"index {str(path)!r} says that shard {shard!r} holds {shorten(missing, SHOWN)}, which it "
                f"does not; get index and shards again, of one version"
            )
        listed = set(names)
        foreign = [name for name in file.tensors if name not in listed]
        if foreign:
            raise UserError(
                f"shard {shard!r} holds {shorten(foreign, SHOWN)}, which index {str(path)!r} does not list; "
                f"get index and shards again, of one version"
            )
        tensors |= {name: file.tensors[name] for name in names}
    return TensorFile(path, f"{', '.join(sorted(formats))} in {_plural(len(names_of))}", tensors)


def shards(path: Path) -> tuple[Path, ...]:
    """Return the files of an index, sorted by name.

    Raises:
        UserError: the index is damaged, leads outside its folder, or a file is missing.
    """
    found = tuple(path.with_name(name) for name in sorted(set(weight_map(path).values())))
    missing = [each.name for each in found if not each.is_file()]
    if missing:
        raise UserError(
            f"index {str(path)!r} needs {_plural(len(found))}, and {shorten(map(repr, missing), SHOWN)} "
            f"{'is' if len(missing) == 1 else 'are'} not beside it; get what is missing"
        )
    return found


def weight_map(path: Path) -> dict[str, str]:
    """Return the file name of each tensor; every one is a plain name, so that none leads to another folder.

    Raises:
        UserError: the index is damaged, or leads outside its folder.
    """
    if not path.is_file():
        raise UserError(f"index {str(path)!r} is no file; expected the {INDEX_SUFFIX} beside its shards")
    size = path.stat().st_size
    if size > MAX_INDEX_BYTES:
        raise UserError(
            f"index {str(path)!r} has {size} bytes; expected at most {MAX_INDEX_BYTES}: no weights need more"
        )
    try:
        content: Any = json.loads(path.read_bytes())
        found = content["weight_map"]
        is_map = bool(found) and all(isinstance(shard, str) for shard in found.values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"index {str(path)!r} is damaged ({type(error).__name__}: {error}); get it again"
        ) from error
    if not is_map:
        raise UserError(f"index {str(path)!r} maps no tensors to files; get it again")
    for shard in set(found.values()):
        _check_plain(shard, path)
    if len(set(found.values())) > MAX_SHARDS:
        raise UserError(f"index {str(path)!r} names over {MAX_SHARDS} shards: no weights need more")
    return found


def _check_plain(shard: str, path: Path) -> None:
    """Raise UserError unless a shard's name is that of a file beside the index, and not of an index."""
    is_plain = shard not in ("", ".", "..") and not set(shard) & set('/\\:\0\n\r*?"<>|')
    if not is_plain or shard.endswith(INDEX_SUFFIX):
        raise UserError(
            f"index {str(path)!r} names the shard {shard!r}; expected names of files beside it: nothing was "
            f"opened"
        )


def _plural(count: int) -> str:
    return f"{count} shard{'' if count == 1 else 's'}"
