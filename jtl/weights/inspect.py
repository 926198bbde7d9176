"""What is in a file of weights, and what jtl takes it for."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from jtl.models import MODELS
from jtl.weights import FAMILIES
from jtl.weights.contract import Config, Recognised, Tensor, TensorFile
from jtl.weights.hub import named
from jtl.weights.hub import resolve as hub
from jtl.weights.names import assign
from jtl.weights.origins import origins_of
from jtl.weights.prefixes import SEPARATOR
from jtl.weights.recognise import of_file
from jtl.weights.report import left_out, shorten

SHOWN_TENSORS, SHOWN_NAMES = 12, 4
UNKNOWN, HEADINGS = "unknown", ("tensor", "shape", "dtype", "the model's")


class Inspection(NamedTuple):
    """An open file, what it was taken for (None: no model jtl knows), and where each of its tensors goes.

    `places` are by the names of what is taken for the model's; why the others are not, the file says.
    """

    spec: str
    file: TensorFile
    sha256: str
    recognised: Recognised | None
    places: dict[str, str]


def inspect(spec: str, settings: Config | None = None) -> Inspection:
    """Return what a spec's weights are; only names, shapes and dtypes are read.

    Raises:
        UserError: the weights cannot be had or read.
    """
    found, file = hub.opened(spec, settings or Config())
    recognised = of_file(file)
    places = dict.fromkeys(file.tensors, UNKNOWN)
    if recognised is not None:
        best = assign.best_origin(origins_of(file.tensors, recognised.family), file.tensors)
        assert best is not None, "a recognised file has an origin"
        places |= {name: joined(each.targets) for name, each in best[1].filled.items()}
        places |= {name: f"left out: {each.reason}" for name, each in best[1].left_out.items()}
    return Inspection(spec, file, found.sha256, recognised, places)


def joined(names: Sequence[str]) -> str:
    """Return names of leaves as one text, what they share written once.

    >>> joined(("params/block0/query/bias", "params/block0/key/bias"))
    'block0/{query,key}/bias'
    """
    parts = [name.removeprefix("params/").split("/") for name in names]
    if len({len(each) for each in parts}) > 1:
        return ", ".join("/".join(each) for each in parts)
    columns = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    return "/".join(each[0] if len(each) == 1 else f"{{{','.join(each)}}}" for each in columns)


def as_json(found: Inspection) -> dict[str, Any]:
    """Return the inspection as plain values."""
    file, model = found.file, found.recognised
    preprocess = None if file.preprocess is None else vars(file.preprocess)
    is_open = model is not None and preprocess is None
    guess = named.guess(found.spec, file, model.family) if model is not None and is_open else None
    return {
        "weights": found.spec,
        "path": str(file.path),
        "format": file.format,
        "sha256": found.sha256,
        "num_tensors": len(file.tensors),
        "num_values": _num_values(file),
        "dtypes": dict(Counter(tensor.dtype for tensor in file.tensors.values())),
        "taken_for": None if model is None else model.title,
        "model": None if model is None else {"name": model.family, **model.config_fields},
        "origin": None if model is None else model.origin,
        "num_outputs": None if model is None else model.num_outputs,
        "label_names": None if file.label_names is None else list(file.label_names),
        "preprocess": preprocess,
        "preprocess_guess": None if guess is None else {**vars(guess.preprocess), "why": guess.why},
        "notes": list(file.notes),
        "tensors": [
            {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype, "place": place}
            for name, tensor, place in _all(found)
        ],
    }


def text(found: Inspection) -> list[str]:
    """Return the inspection for people: a line a fact (the tensors come from `rows`)."""
    file, model = found.file, found.recognised
    dtypes = Counter(tensor.dtype for tensor in file.tensors.values())
    kinds = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common())
    lines = [
        f"weights: {found.spec} ({file.format}, sha256 {found.sha256[:12]}…)",
        f"  {len(file.tensors)} tensors ({kinds}), {_num_values(file):,} values",
    ]
    lines += [f"  {note}" for note in file.notes]
    lines += [f"  beside them {line}" for line in left_out(file.reasons)]
    if model is None:
        return [*lines, "  taken for: no model jtl knows"]
    settings = ", ".join(f"model.{name}={value!r}" for name, value in model.config_fields.items())
    lines.append(f"  taken for: {model.title}")
    lines.append(f"  as settings: model.name={model.family!r}" + (f", {settings}" if settings else ""))
    if file.label_names:
        lines.append(f"  classes: {shorten(file.label_names, SHOWN_NAMES)}")
    if file.preprocess:
        lines.append(f"  pre-processing: {file.preprocess.described()}")
    else:
        family = MODELS[model.family]
        default = family.build(family.Config(**model.config_fields), 0).preprocess
        guess = named.guess(found.spec, file, model.family)
        guessed = "the family's own" if guess is None else guess.why
        seen = default if guess is None else guess.preprocess.at(default.image_px)
        lines.append(f"  pre-processing: none came with it; a guess, {guessed}: {seen.described()}")
    for place in sorted(set(found.places.values())):
        if place == UNKNOWN or place.startswith("left out"):
            names = [name for name, each in found.places.items() if each == place]
            lines.append(f"  {place} ({len(names)}): {shorten(names, SHOWN_NAMES)}")
    return lines


def rows(found: Inspection, *, has_all: bool) -> tuple[list[list[str]], int]:
    """Return the table of the first tensors, or all of them, with headings; and how many are not shown."""
    every = _all(found)
    shown = every[: None if has_all else SHOWN_TENSORS]
    table = [
        [name, "x".join(map(str, tensor.shape)) or "scalar", tensor.dtype, place]
        for name, tensor, place in shown
    ]
    return [list(HEADINGS), *table], len(every) - len(shown)


def unknown(found: Inspection) -> str:
    """Return what to set where no family knows a file's names."""
    tensors = found.file.tensors
    tops = Counter(SEPARATOR.split(name)[0] for name in tensors)
    parts = shorten([f"{top!r} ({count})" for top, count in tops.most_common()], SHOWN_NAMES)
    return (
        f"weights {found.spec!r} look like no model jtl knows: {len(tensors)} names begin with {parts}; "
        f"where it is a part of the file set --config.weights.entry=PART, where names have something before "
        f"--config.weights.prefix=PREFIX; known families: {', '.join(FAMILIES)}"
    )


def _all(found: Inspection) -> list[tuple[str, Tensor, str]]:
    """Return (name, tensor, place) of all tensors of the file, those of the model first."""
    file = found.file
    taken = [(name, tensor, found.places[name]) for name, tensor in file.tensors.items()]
    return [*taken, *((name, each, f"left out: {file.reasons[name]}") for name, each in file.others.items())]


def _num_values(file: TensorFile) -> int:
    return sum(math.prod(tensor.shape) for tensor in file.tensors.values())
