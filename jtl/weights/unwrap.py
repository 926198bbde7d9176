"""Which tensors of a file are the model's: what wrappers added to names is taken off, the rest left aside.

Training scripts keep a model under names of their own (`state_dict.model.`, `module.base_encoder.`), beside
averages, optimizer state and counters. The candidates are the parts of a file whose names are some family's
(`prefixes`); that of which most fits is taken. What was decided goes into the file's `notes` and `reasons`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from jtl.errors import UserError, nearest
from jtl.weights import prefixes
from jtl.weights.contract import Config, Tensor, TensorFile
from jtl.weights.formats import variables
from jtl.weights.head import PREFIX
from jtl.weights.names import assign
from jtl.weights.origins import Known, best_known, known_as
from jtl.weights.plan import FLOATS
from jtl.weights.report import shorten

SHOWN = 4
COUNTER, OPTIMIZER = "counter, not learned", "optimizer state"
TRAINING, PRE_TRAINING = "state of training, not of the model", "of pre-training, not of the model"
OTHER_HEAD, UNWANTED = "head of another kind", "weights.leave_out"
OUTSIDE = "beside the model"
# Of how much of the largest model in a file another one has to be, to be meant perhaps.
MIN_RIVAL = 0.3
# Parts of names that say whose a tensor is, wherever they stand.
WHOSE: dict[str, str] = {
    **dict.fromkeys(
        (
            *("optimizer", "optimizers", "optimizer_states", "optimizer_state_dict", "optim", "opt_state"),
            *("opt_states", "param_states", "exp_avg", "exp_avg_sq", "momentum_buffer", "grad_ema"),
        ),
        OPTIMIZER,
    ),
    **dict.fromkeys(
        (
            *("callbacks", "loops", "lr_scheduler", "lr_schedulers", "scheduler", "scaler", "loss_scaler"),
            *("criterion", "loss", "loss_fn", "dino_loss", "metrics", "rng_state", "rng_states", "rng"),
            *("hyper_parameters", "message_hub", "meta", "train_metrics", "val_metrics", "test_metrics"),
        ),
        TRAINING,
    ),
}
# Numbers that averages and schedules keep, and first parts of names that self-supervised training adds.
NUMBERS = ("decay", "num_updates", "n_averaged", "step", "steps", "global_step", "epoch", "temperature")
ADDED = re.compile(
    r"(decoder(_\w+)?|projector|projection(_head)?|predictor|prediction_head|prototypes|queue(_ptr)?|center"
    r"|mask_token|target_generator|neck|bottleneck|contrastive_head)(?=[./]|$)"
)
# Where a file holds copies that fit alike: averages before what they average, what is evaluated by custom
# before what it is trained against. What is in neither list comes between.
FIRST = (
    *("ema_params", "params_ema", "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema"),
    *("averaged", "state_dict", "model_state_dict", "model", "params", "base_encoder", "encoder_q"),
    *("online_network", "online_encoder", "teacher"),
)
LAST = {"student", "momentum_encoder", "encoder_k", "target_network", "target_encoder", "target_net"}


class _Choice(NamedTuple):
    """A part of a file: its tensors' names → their names in the file, and what they are taken for.

    `where` is what all of them begin with in the file.
    """

    names: Mapping[str, str]
    known: Known
    where: str

    @property
    def filled(self) -> set[str]:
        """The names in the file of what has a place in the model."""
        return {self.names[name] for name in self.known.assignment.filled}

    @property
    def size_of_body(self) -> int:
        """How many tensors have a place in the model beside its head."""
        filled = self.known.assignment.filled.values()
        return sum(not each.targets[0].startswith(PREFIX) for each in filled)

    @property
    def entry(self) -> str:
        """What `weights.entry` calls it."""
        return self.where.rstrip("./")


class _Asked(NamedTuple):
    """What settings leave to choose from: all tensors, the format's own choice, and what is out and why."""

    pool: Mapping[str, Tensor]
    own: Mapping[str, str]
    reasons: Mapping[str, str]


def unwrapped(file: TensorFile, settings: Config) -> TensorFile:
    """Return the file with the model's tensors under the model's names, and the others aside with a reason.

    Raises:
        UserError: copies of a model fit alike, or `weights.entry`, `weights.prefix` or `weights.leave_out`
            name nothing in the file.
    """
    asked = _asked(file, settings)
    own = _choice(asked.own, asked.pool)
    is_whole = own is not None and not own.known.assignment.unknown and len(asked.pool) == len(asked.own)
    if is_whole and not asked.reasons:
        return _with(file, asked, asked.own, {}, ())
    rivals = _rivals([*([] if own is None else [own]), *([] if settings.prefix else _search(asked))])
    if not rivals:
        return _with(file, asked, asked.own, {}, ())
    chosen = _preferred(rivals, own, file)
    others = [each for each in rivals if each is not chosen]
    chosen = _with_head(chosen, asked)
    unneeded = _unneeded(chosen, asked.pool)
    names = {name: raw for name, raw in chosen.names.items() if raw not in unneeded}
    copies = {
        raw: f"another copy of a model, {each.where!r}" for each in others for raw in each.names.values()
    }
    return _with(file, asked, names, {**copies, **unneeded}, _notes(chosen, others, asked))


def _notes(chosen: _Choice, others: Sequence[_Choice], asked: _Asked) -> tuple[str, ...]:
    """Return what was decided that a user may want to decide otherwise."""
    notes = []
    if chosen.where and not set(asked.own.items()) >= set(chosen.names.items()):
        notes.append(f"the model is what the file has under {chosen.where!r}, which is taken off its names")
    if others:
        rest = " or ".join(f"weights.entry={each.entry!r}" for each in others)
        taken = chosen.entry or "the top"
        notes.append(
            f"the file has {len(others) + 1} models, and that of {taken!r} is taken; to take another: {rest}"
        )
    return tuple(notes)


def _asked(file: TensorFile, settings: Config) -> _Asked:
    own = {name: file.raw_names.get(name, name) for name in file.tensors}
    pool = {**{raw: file.tensors[name] for name, raw in own.items()}, **file.others}
    reasons: dict[str, str] = {}
    for wanted in _patterns(settings.leave_out):
        found = [raw for raw in pool if any(fnmatchcase(raw, each) for each in (wanted, f"*[./]{wanted}"))]
        if not found:
            raise UserError(
                f"weights.leave_out has {wanted!r}, which no tensor of {str(file.path)!r} fits; nearest: "
                f"{nearest(wanted, pool)}"
            )
        reasons |= dict.fromkeys(found, UNWANTED)
    pool = {raw: tensor for raw, tensor in pool.items() if raw not in reasons}
    own = {name: raw for name, raw in own.items() if raw in pool}
    if settings.entry:
        own = _under(settings.entry, {raw: raw for raw in pool})
        if not own:
            raise UserError(
                f"weights.entry is {settings.entry!r}, under which {str(file.path)!r} has no tensors; it has "
                f"{_tops(pool)}"
            )
        outside = set(pool) - set(own.values())
        reasons |= {raw: _whose(raw) or f"outside of weights.entry={settings.entry!r}" for raw in outside}
        pool = {raw: tensor for raw, tensor in pool.items() if raw not in reasons}
        own = _as_variables(own)
    if settings.prefix:
        stripped = _stripped(settings.prefix, own) or _stripped(settings.prefix, {raw: raw for raw in pool})
        if not stripped:
            raise UserError(
                f"weights.prefix is {settings.prefix!r}, with which no name in {str(file.path)!r} begins; "
                f"found {shorten(own, SHOWN)}"
            )
        own = stripped
    return _Asked(pool, own, reasons)


def _patterns(leave_out: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return patterns given one behind the other with commas, or each for itself."""
    given = leave_out.split(",") if isinstance(leave_out, str) else leave_out
    return tuple(each.strip() for each in given if each.strip())


def _under(entry: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return the names that lie under an entry, without it."""
    entry = entry.rstrip("./")
    return _stripped(f"{entry}.", names) or _stripped(f"{entry}/", names)


def _stripped(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(prefix): raw
        for name, raw in names.items()
        if name.startswith(prefix) and name != prefix
    }


def _as_variables(names: Mapping[str, str]) -> dict[str, str]:
    """Return the names of a tree of Flax variables as the model's; other names as they are."""
    _, found = variables.of_model(names, "weights")
    return {name: names[each] for name, each in found.items()}


def _tops(pool: Iterable[str]) -> str:
    """Return the first parts of names and how many tensors each has, for people."""
    counts = Counter(prefixes.SEPARATOR.split(raw)[0] for raw in pool)
    return shorten([f"{top!r} ({count})" for top, count in counts.most_common()], SHOWN)


def _choice(names: Mapping[str, str], pool: Mapping[str, Tensor]) -> _Choice | None:
    """Return these names as a choice; None where no family knows them."""
    known = best_known({name: pool[raw] for name, raw in names.items()}) if names else None
    if known is None:
        return None
    # What the first and the last in order share, all share.
    first, last = min(names.values()), max(names.values())
    differing = (at for at, (ours, theirs) in enumerate(zip(first, last, strict=False)) if ours != theirs)
    shared = first[: next(differing, len(first))]
    ends = [place.end() for place in prefixes.SEPARATOR.finditer(shared)]
    return _Choice(names, known, shared[: ends[-1]] if ends and len(names) > 1 else "")


def _search(asked: _Asked) -> list[_Choice]:
    """Return the parts of a file whose names a family knows."""
    pool = {raw: raw for raw in asked.pool if not _whose(raw)}
    parts: dict[tuple[tuple[str, str], ...], None] = {}
    for prefix in prefixes.candidates(pool):
        folder = re.sub(r"[^./]*[./]$", "", prefix)
        for each in (prefix, folder) if prefix.endswith("/") else (prefix,):
            if names := _stripped(each, pool):
                parts[tuple(_as_variables(names).items())] = None
    found = (_choice(dict(part), asked.pool) for part in parts)
    return [each for each in found if each is not None]


def _rivals(choices: Iterable[_Choice]) -> list[_Choice]:
    """Return the best of the choices that share tensors, and of others those of which not much less fits."""
    best = sorted(
        choices, key=lambda each: (-len(each.filled), len(each.known.assignment.unknown), len(each.where))
    )
    rivals: list[_Choice] = []
    for each in best:
        is_large = each.size_of_body >= MIN_RIVAL * max(other.size_of_body for other in best)
        if is_large and not any(each.filled & other.filled for other in rivals):
            rivals.append(each)
    return rivals


def _preferred(rivals: Sequence[_Choice], own: _Choice | None, file: TensorFile) -> _Choice:
    """Return the one of several models in a file that is usually meant.

    Raises:
        UserError: no custom says which.
    """
    ranks = [_rank(each.where) for each in rivals]
    is_same_size = len({each.size_of_body for each in rivals}) == 1
    if len(rivals) == 1 or (is_same_size and ranks.count(min(ranks)) == 1):
        return rivals[ranks.index(min(ranks))]
    if own is not None and not own.known.assignment.unknown and own in rivals:
        return own
    found = (f"{each.entry!r} (a {each.known.title}, {len(each.names)} tensors)" for each in rivals)
    raise UserError(
        f"{str(file.path)!r} holds {len(rivals)} models that may be meant; set weights.entry to one of "
        f"{shorten(found, SHOWN)}"
    )


def _rank(where: str) -> int:
    parts = set(prefixes.SEPARATOR.split(where))
    if parts & LAST:
        return len(FIRST) + 1
    return min((FIRST.index(each) for each in parts if each in FIRST), default=len(FIRST))


def _with_head(chosen: _Choice, asked: _Asked) -> _Choice:
    """Return the choice with the head that stands beside its prefix, where it has none behind it."""
    if chosen.size_of_body < len(chosen.known.assignment.filled) or not chosen.where:
        return chosen
    ends = [place.end() for place in prefixes.SEPARATOR.finditer(chosen.where[:-1])]
    taken = set(chosen.names.values())
    for end in (*reversed(ends), 0):
        beside = {raw: raw for raw in asked.pool if raw not in taken}
        beside = _stripped(chosen.where[:end], beside) if end else beside
        filled = assign.assign(chosen.known.origin, beside).filled
        head = {
            name: beside[name]
            for name, each in filled.items()
            if each.targets[0].startswith(PREFIX) and name not in chosen.names
        }
        tensors = {name: asked.pool[raw] for name, raw in {**chosen.names, **head}.items()}
        known = known_as(tensors, chosen.known.family) if head else None
        if known is not None:
            return _Choice({**chosen.names, **head}, known, chosen.where)
    return chosen


def _unneeded(chosen: _Choice, pool: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, by name in the file, what of a choice no table knows and no model needs, and why."""
    rows = chosen.known.origin.rows
    heads = {prefixes.SEPARATOR.split(row.source)[0] for row in rows if row.targets[0].startswith(PREFIX)}
    body = {prefixes.SEPARATOR.split(row.source)[0] for row in rows if not row.targets[0].startswith(PREFIX)}
    found = {}
    for name in chosen.known.assignment.unknown:
        raw = chosen.names[name]
        first, *_, last = ("", *prefixes.SEPARATOR.split(name))[1:] * 2
        is_number = math.prod(pool[raw].shape) <= 1
        if is_number and (pool[raw].dtype not in FLOATS or last in NUMBERS):
            found[raw] = COUNTER
        elif reason := _whose(name):
            found[raw] = reason
        elif ADDED.match(name):
            found[raw] = PRE_TRAINING
        elif first in heads - body:
            found[raw] = OTHER_HEAD
    return found


def _whose(name: str) -> str:
    """Return why a tensor of this name is none of a model's; "" where the name does not say so."""
    return next((WHOSE[part] for part in prefixes.SEPARATOR.split(name) if part in WHOSE), "")


def _with(
    file: TensorFile,
    asked: _Asked,
    names: Mapping[str, str],
    reasons: Mapping[str, str],
    notes: tuple[str, ...],
) -> TensorFile:
    """Return the file with these names, and a reason for all that is left aside."""
    every = {file.raw_names.get(name, name): tensor for name, tensor in file.tensors.items()} | dict(
        file.others
    )
    taken = set(names.values())
    others = {raw: tensor for raw, tensor in every.items() if raw not in taken}
    given = {**asked.reasons, **reasons}
    return file._replace(
        tensors={name: every[raw] for name, raw in names.items()},
        others=others,
        reasons={raw: given.get(raw) or _whose(raw) or _beside(every[raw]) for raw in others},
        raw_names={name: raw for name, raw in names.items() if name != raw},
        notes=notes,
    )


def _beside(tensor: Tensor) -> str:
    is_counter = math.prod(tensor.shape) <= 1 and tensor.dtype not in FLOATS
    return COUNTER if is_counter else OUTSIDE
