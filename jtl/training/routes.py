"""How a run's training examples get to the devices: read anew every time, or kept between epochs.

The route is chosen by size and backend, or set (`inputs.route`), and a run keeps the one that it began with:
batches of one route are not those of another, bit for bit.
"""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jtl import distributed, files, memory
from jtl.data import Source, cache
from jtl.data.pipeline import AUTO, CACHE, DEVICE, STREAM
from jtl.errors import UserError
from jtl.inputs.contract import Storage
from jtl.strategies.contract import TRAIN
from jtl.training import config
from jtl.training.config import Config
from jtl.training.ready import Plan
from jtl.training.resident import Resident, resident, room_bytes
from jtl.training.views import augment_of, rows_of

HOST = "cpu"
# Fewer passes than this over the examples do not pay for one more that keeps them.
MIN_PASSES = 2.0
# Where meta.json has the route that a run began with.
KEY = "route"


class Routed(NamedTuple):
    """The streams as training reads them, the route's name, and why it is that one ("": nothing to say).

    `residents` are the streams whose examples lie on the devices.
    """

    streams: dict[str, Source]
    name: str = STREAM
    reason: str = ""
    residents: Mapping[str, Resident] = {}

    def lines(self) -> list[str]:
        """Return the line for people."""
        return [f"inputs.route: {self.name} ({self.reason})"] if self.reason else []


class Case(NamedTuple):
    """What a route is chosen by; `parts` has the input kind, its pre-processing and the number of steps.

    `storages` say how the examples of each stream are kept; `room` is how many bytes of examples may lie on
    each device.
    """

    settings: Config
    parts: Any
    storages: Mapping[str, Storage]
    streams: dict[str, Source]
    mesh: Mesh
    say: Callable[[str], None]
    room: int


def said(
    plan: Plan,
    streams: dict[str, Source],
    mesh: Mesh,
    say: Callable[[str], None],
    *,
    is_passed_once: bool,
) -> Routed:
    """Return the streams by the route that a run takes, as in `opened`, and say which it is."""
    begun = distributed.told(f"{plan.folder} route", lambda: begun_with(plan.folder))
    routed = opened(
        plan.settings,
        plan.built.parts,
        streams,
        mesh,
        begun=begun,
        say=say,
        is_passed_once=is_passed_once,
        told_as=f"{plan.folder} chosen",
    )
    for line in routed.lines():
        say(line)
    return routed


def opened(
    settings: Config,
    parts: Any,
    streams: dict[str, Source],
    mesh: Mesh,
    *,
    begun: str,
    say: Callable[[str], None],
    is_passed_once: bool = False,
    told_as: str = "",
) -> Routed:
    """Return the streams by the route that is set, that the run `begun` with, or that pays and fits.

    `told_as` is what processes tell each other the choice by, once. With `is_passed_once` training goes
    through the examples once: what frozen layers give of them is kept.

    Raises:
        UserError: the kind of input does not know the route, or an example cannot be read.
    """
    # What is not varied is read as in evaluation.
    varied = {} if parts.augment is None else {name: augment_of(parts, name) for name in streams}
    storages = {name: parts.input.storage(parts.preprocess, each) for name, each in varied.items()}
    asked = settings.inputs.route
    if is_passed_once:
        given = "" if asked == AUTO else f"what the frozen layers give of the {parts.input.unit} is kept"
        return Routed(streams, STREAM, given)
    kept = {name: each for name, each in storages.items() if each is not None}
    if len(kept) < len(streams):
        if asked not in (AUTO, STREAM):
            raise UserError(
                f"inputs.route is {asked!r}, and {parts.input.unit} are read anew every time; set "
                f"inputs.route={STREAM} or {AUTO}"
            )
        return Routed(streams)
    # All processes have the same batches, each its rows of them: so one route, which one of them chooses.
    room = distributed.told(f"{told_as} room", lambda: room_bytes(settings.inputs.device_share))
    case = Case(settings, parts, kept, streams, mesh, say, room)
    if begun:
        found = OPENING[begun](case, "as the run began")
        if found.name != begun:
            say(
                f"this run began with inputs.route={begun}: from here on its batches are not as they would be"
            )
        return found
    if asked != AUTO:
        return OPENING[asked](case, "as set")
    name, reason = distributed.told(told_as, lambda: list(chosen(case)))
    return OPENING[name](case, reason)


def begun_with(folder: Path) -> str:
    """Return the route that the run of a folder began with, "" where there is none.

    Raises:
        UserError: its meta.json is damaged.
    """
    if not (folder / "meta.json").is_file() or not config.has_begun(folder):
        return ""
    # Runs did not say so when there was no other.
    found = files.read_record(folder / "meta.json").get(KEY, files.TEXT, STREAM)
    return found if found in OPENING else STREAM


def chosen(case: Case) -> tuple[str, str]:
    """Return the route that pays and fits, and why it is that one."""
    unit, passes = case.parts.input.unit, _passes(case)
    if passes < MIN_PASSES:
        return STREAM, f"each of the {unit} is read about {passes:.2g} times"
    num_bytes, described = _needed_bytes(case), case.storages[TRAIN].described
    size = f"{memory.text(num_bytes)} of {unit} read"
    if case.mesh.devices.flat[0].platform != HOST and num_bytes <= case.room:
        return DEVICE, f"{size} lie on each device and are varied there, {described}"
    if not any(_is_encoded(source) for source in case.streams.values()):
        return STREAM, f"nothing of the {unit} needs decoding"
    if num_bytes > case.settings.inputs.store_bytes:
        limit = memory.text(case.settings.inputs.store_bytes)
        return STREAM, f"{size} are more than inputs.store_bytes, {limit}"
    return CACHE, f"{size} are kept, {described}"


def _stream(case: Case, reason: str) -> Routed:
    return Routed(case.streams, STREAM, reason)


def _cache(case: Case, reason: str) -> Routed:
    """Return the streams as they are kept; where that cannot be, as they are."""
    found: dict[str, Source] = {}
    for name, source in case.streams.items():
        kept = cache.cached(
            source,
            case.storages[name],
            case.settings.inputs.store_bytes,
            unit=case.parts.input.unit,
            say=case.say,
        )
        if kept is None:
            return Routed(case.streams, STREAM, f"{case.parts.input.unit} could not be kept")
        found[name] = kept
    return Routed(found, CACHE, reason)


def _device(case: Case, reason: str) -> Routed:
    """Return the streams on the devices; what had to be decoded for it is kept for other runs."""
    room, unit = case.room, case.parts.input.unit
    num_bytes = _needed_bytes(case)
    are_encoded = any(_is_encoded(source) for source in case.streams.values())
    if num_bytes > room:
        case.say(
            f"{memory.text(num_bytes)} of {unit} do not fit in {memory.text(room)}, inputs.device_share of a "
            f"device's memory"
        )
        return (_cache if are_encoded else _stream)(case, f"the {unit} do not fit on the device")
    sources = _cache(case, reason).streams if are_encoded else case.streams
    train, residents = case.settings.train, {}
    for name, source in sources.items():
        residents[name] = resident(
            source,
            case.storages[name],
            batch_size=rows_of(case.parts, name, train.batch_size),
            seed=stream_seed(train.seed, name),
            mesh=case.mesh,
        )
    return Routed(case.streams, DEVICE, reason, residents)


def stream_seed(seed: int, stream: str) -> int:
    """Return a seed of the stream's own order; that of the training examples is the run's."""
    return seed if stream == TRAIN else seed + zlib.crc32(stream.encode())


def _needed_bytes(case: Case) -> int:
    return sum(cache.needed_bytes(source, case.storages[name]) for name, source in case.streams.items())


def _passes(case: Case) -> float:
    """Return how often the run reads each of its training examples, on average."""
    num_read = case.parts.num_steps * case.settings.train.batch_size
    return num_read / len(case.streams[TRAIN])


def _is_encoded(source: Source) -> bool:
    """Return whether examples are kept otherwise than they are read."""
    return isinstance(source[0]["raw"], bytes)


OPENING: Mapping[str, Callable[[Case, str], Routed]] = {STREAM: _stream, CACHE: _cache, DEVICE: _device}
