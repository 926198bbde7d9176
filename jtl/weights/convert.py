"""Writing weights under the names that other libraries read; the way back of `load`, bit for bit."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl import tree
from jtl.errors import UserError, nearest
from jtl.files import replaced
from jtl.models import MODELS
from jtl.models.contract import FEATURES, build
from jtl.models.head import Settings
from jtl.names import as_unicode, is_unicode
from jtl.weights import FAMILIES, plan, problems
from jtl.weights.contract import Config, LeftOut, Origin, Recognised, Row, TensorFile
from jtl.weights.head import PREFIX
from jtl.weights.hub import resolve as hub
from jtl.weights.names import assign, pattern
from jtl.weights.open import open_path
from jtl.weights.origins import origins_of
from jtl.weights.recognise import described, of_file
from jtl.weights.report import shorten

SHOWN = 4
# Settings that are no part of a model's weights.
UNTOLD = {each.name for each in fields(Settings)} | {"dropout", "attention_dropout", "drop_path"}
OWN = "jtl"
# PyTorch counts the batches that a normalisation's statistics have seen, and strict loading asks for it.
STATISTIC, COUNTER = ".running_var", ".num_batches_tracked"

Leaves = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]


class Target(NamedTuple):
    """One kind of file to write: whose names, by preference, and how the file is written.

    `libraries` are beginnings of the keys of `FamilyNames.origins`, or "jtl" for the model's own names.
    """

    libraries: tuple[str, ...]
    write: Callable[[Path, Arrays], None]


class Converted(NamedTuple):
    """What a conversion wrote.

    `left_out` are source tensors without a leaf in the model, with reasons; `lost` says what the source told
    and the file written cannot: settings, class names, pre-processing.
    """

    path: Path
    source: Recognised
    title: str
    num_tensors: int
    num_values: int
    left_out: Mapping[str, str]
    lost: tuple[str, ...]


def convert(spec: str, to: str, out: Path, settings: Config | None = None) -> Converted:
    """Write a spec's weights under other names, every value and dtype kept (but PyTorch's batch counters: 0).

    Raises:
        UserError: the weights are of no model jtl knows, the target has no names for the family or for one of
            its leaves, or the output is there already, or its folder is not.
    """
    if to not in TARGETS:
        raise UserError(
            f"--to is {to!r}; expected one of {', '.join(TARGETS)}; nearest: {nearest(to, TARGETS)}"
        )
    if out.exists():
        raise UserError(f"--out {str(out)!r} is there already; give another path, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"--out {str(out)!r}: folder {str(out.parent)!r} is not there; make it first")
    _, file = hub.opened(spec, settings or Config())
    source = described(file, spec)
    leaves, left_out = read_leaves(file, source, spec)
    title, arrays = named(source.family, TARGETS[to].libraries, leaves, source.config_fields)
    with replaced(out) as part:
        TARGETS[to].write(part, arrays)
    num_values = sum(array.size for array in leaves.values())
    return Converted(out, source, title, len(arrays), num_values, left_out, _lost(file, source, out))


def as_json(done: Converted) -> dict[str, Any]:
    """Return what a conversion wrote as plain values."""
    return {
        "out": str(done.path),
        "taken_for": done.source.title,
        "names": done.title,
        "num_tensors": done.num_tensors,
        "num_values": done.num_values,
        "left_out": dict(done.left_out),
        "lost": list(done.lost),
    }


def text(done: Converted) -> list[str]:
    """Return what a conversion wrote, for people."""
    lines = [
        f"read a {done.source.title}",
        f"wrote {done.num_tensors} tensors ({done.num_values:,} values) with {done.title} to {done.path}",
    ]
    for reason in dict.fromkeys(done.left_out.values()):
        names = [name for name, each in done.left_out.items() if each == reason]
        lines.append(f"left out {len(names)} ({reason}): {shorten(names, SHOWN)}")
    return [*lines, *(f"not in the new file: {each}" for each in done.lost)]


def _lost(file: TensorFile, source: Recognised, out: Path) -> tuple[str, ...]:
    """Return what is told of the source and not of the file written: that is read again, and compared."""
    written = of_file(open_path(out))
    assert written is not None, "what was written is of the same family"
    models = [MODELS[each.family] for each in (source, written)]
    told, left = (
        vars(model.resolve(model.Config(**each.config_fields)))
        for model, each in zip(models, (source, written), strict=True)
    )
    differing = [name for name, value in told.items() if name not in UNTOLD and left[name] != value]
    lost = [f"model.{name}={told[name]!r} (it will be taken for {left[name]!r})" for name in differing]
    if file.label_names:
        lost.append(f"the names of {len(file.label_names)} classes")
    if file.preprocess:
        lost.append(f"the pre-processing: {file.preprocess.described()}")
    return tuple(lost)


def read_leaves(
    file: TensorFile, source: Recognised, spec: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a file's tensors as the model's leaves, in the file's dtypes, and what no leaf takes.

    Raises:
        UserError: a tensor does not fit the model the file was taken for.
    """
    family, names = source.family, FAMILIES[source.family]
    config = MODELS[family].Config(**source.config_fields)
    model = build(MODELS[family], config, source.num_outputs, reads=source.reads)
    params, model_state = model.shapes()
    shapes = tree.flatten({"params": params, "model_state": model_state})
    origins = origins_of(file.tensors, family)
    best = assign.best_origin(origins, file.tensors)
    assert best is not None, "a recognised file has an origin"
    origin, assignment = origins[best[0]], best[1]
    has_head = bool(source.num_outputs) or source.reads != FEATURES
    target = plan.Target(names, shapes, names.grid(config), Config(head="load" if has_head else "new"))
    planned = plan.make(target, file, origin, assignment, (), names.grid(config))
    if not planned.is_sound:
        raise UserError(problems.misfit(spec, file, MODELS[family].resolve(config), origin, planned))
    leaves: dict[str, np.ndarray] = {}
    for name, fill in planned.fills.items():
        expected = tuple(tuple(shapes[leaf].shape) for leaf in fill.assigned.targets)
        parts = fill.assigned.row.op.forward(file.tensors[name].read(), expected)
        leaves.update(zip(fill.assigned.targets, parts, strict=True))
    return leaves, {**planned.left_out, **file.reasons}


def named(
    family: str, libraries: tuple[str, ...], leaves: Leaves, fields: Mapping[str, Any] = {}
) -> tuple[str, Arrays]:
    """Return the title and the tensors of the first origin of the libraries that has a name for every leaf.

    `fields` are settings of the model: origins all of whose models have them come first.

    Raises:
        UserError: none has.
    """
    origins = FAMILIES[family].origins
    keys = [key for library in libraries for key in (*origins, OWN) if key.startswith(library)]
    if not keys:
        raise UserError(
            f"family {family!r} has no names of {' or '.join(libraries)}; found: {', '.join((*origins, OWN))}"
        )
    key, arrays = of_origins(family, keys, leaves, fields)
    return "jtl names" if key == OWN else origins[key].title, arrays


def of_origins(
    family: str, keys: list[str], leaves: Leaves, fields: Mapping[str, Any] = {}
) -> tuple[str, Arrays]:
    """Return the first key of origins, or "jtl", that has a name for every leaf, and the tensors.

    `fields` are as in `named`.

    Raises:
        UserError: none has.
    """
    origins = FAMILIES[family].origins
    told = vars(MODELS[family].resolve(MODELS[family].Config(**fields)))

    def distance(key: str) -> tuple[bool, int, int]:
        wanted = origins[key].config_fields if key in origins else {}
        num_differing = sum(told[name] != value for name, value in wanted.items())
        return key == OWN, num_differing, -len(wanted)

    keys = sorted(keys, key=distance)
    missing: dict[str, list[str]] = {}
    reasons: list[str] = []
    for key in keys:
        if key == OWN:
            return key, {name: np.array(leaf, order="C") for name, leaf in leaves.items()}
        arrays, missing[key] = to_origin(origins[key], leaves)
        if missing[key]:
            continue
        reason = origins[key].refuses(leaves)
        if not reason:
            return key, arrays
        reasons.append(f"{origins[key].title} have a place for every leaf, and yet {reason}")
    if reasons:
        raise UserError(f"{reasons[0]}; choose another --to")
    closest = min(keys, key=lambda key: len(missing[key]))
    raise UserError(
        f"{origins[closest].title} have no place for {len(missing[closest])} of the model's {len(leaves)} "
        f"leaves: {shorten(missing[closest], SHOWN)}; choose another --to"
    )


def to_origin(origin: Origin, leaves: Leaves) -> tuple[Arrays, list[str]]:
    """Return the leaves under an origin's names and in its layout, and the leaves it has no name for.

    The inverse of loading. The prefix is written where the leaves have a head: libraries put it on the
    backbone inside a classifier, and have none on a bare backbone.
    """
    has_head = any(name.startswith(PREFIX) for name in leaves)
    places = _places(origin.rows, leaves)
    arrays: Arrays = {}
    taken: set[str] = set()
    for row in origin.rows:
        for numbers in places[row.targets[0]]:
            targets = [pattern.render(target, numbers) for target in row.targets]
            if taken.intersection(targets) or not all(target in leaves for target in targets):
                continue
            is_beside = row.is_beside or targets[0].startswith(PREFIX)
            prefix = origin.prefix if has_head and not is_beside else ""
            parts = tuple(np.asarray(leaves[target]) for target in targets)
            arrays[prefix + pattern.render(row.source, numbers)] = np.array(row.op.inverse(parts), order="C")
            taken.update(targets)
    counters = {name.removesuffix(STATISTIC) + COUNTER for name in arrays if name.endswith(STATISTIC)}
    arrays |= {name: np.zeros((), np.int64) for name in sorted(counters) if _is_left_out(origin, name)}
    return arrays, [name for name in leaves if name not in taken]


def _places(rows: tuple[Row, ...], leaves: Leaves) -> dict[str, list[dict[str, int]]]:
    """Return for each pattern of a row's first target the numbers of the leaves that fit it."""
    return {
        row.targets[0]: [
            numbers for name in leaves if (numbers := pattern.match(row.targets[0], name)) is not None
        ]
        for row in rows
    }


def _is_left_out(origin: Origin, name: str) -> bool:
    bare = name.removeprefix(origin.prefix)
    reasons: tuple[LeftOut, ...] = origin.left_out
    return any(pattern.match(each.source, bare) is not None for each in reasons)


def _write_safetensors(path: Path, arrays: Arrays) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path, metadata={"format": "pt"})


def _write_npz(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as stream:
        # numpy's stub takes the arrays' names for its own options.
        np.savez(stream, **dict[str, Any](arrays))


def _write_orbax(path: Path, arrays: Arrays) -> None:
    import orbax.checkpoint as ocp

    if not is_unicode(str(path.absolute())):
        raise UserError(
            f"--out in {as_unicode(str(path.parent))!r} has bytes in its path that are no UTF-8, where Orbax "
            f"saves nothing; give another path"
        )
    with ocp.StandardCheckpointer() as checkpointer:
        path.unlink()  # a folder takes its place
        checkpointer.save(path.absolute(), tree.unflatten(arrays))


TARGETS: dict[str, Target] = {
    "safetensors-timm": Target(("timm", "torchvision"), _write_safetensors),
    "safetensors-hf": Target(("huggingface",), _write_safetensors),
    "safetensors-jtl": Target((OWN,), _write_safetensors),
    "npz": Target(("google", "big_vision", OWN), _write_npz),
    "orbax": Target((OWN,), _write_orbax),
}
