"""Several processes of one program: which of them this is, how they find each other, and what they agree on.

What tells is looked for in this order: the command line, jtl's own variables, JAX's, and those of the engines
in `ENGINES`. JAX's service, of which process 0 is the server, then keeps small texts for all of them; JAX has
no public way to it (0.10 to 0.12), so `store` is the one place that takes the way Orbax takes.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jtl import peers
from jtl.engines import ENGINES, INDEXES, Place
from jtl.errors import UserError, nearest, shortened, shown

AUTO, OFF, JAX = "auto", "off", "jax"
HOW = (AUTO, OFF, JAX)
OWN = ("JTL_COORDINATOR", "JTL_NUM_PROCESSES", "JTL_PROCESS_ID")
# Others inject these (Kubeflow's trainer among them); jax itself reads only the first.
OF_JAX = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HOW_VARIABLE = "JTL_DISTRIBUTED"
# How long processes wait for each other at the start; pods may have images to fetch.
START_SECONDS = 600
# JAX's own watch stands below that of `peers`, which is quicker and names the cause.
HEARTBEAT_SECONDS, SHUTDOWN_SECONDS = 30, 30
# Process 0 may be writing the report while the others are done, or one compile for long.
END_SECONDS = 24 * 3600
POLL_MILLISECONDS = 1000


class Given(NamedTuple):
    """What the command line says: "" and None of what it does not."""

    how: str = ""
    coordinator: str = ""
    num_processes: int | None = None
    process_id: int | None = None


def add_arguments(parser: Any) -> None:
    """Add the arguments that say which process of how many this is."""
    group = parser.add_argument_group("several processes (found by themselves under Slurm, Open MPI and TPU)")
    group.add_argument(
        "--distributed",
        default="",
        metavar="HOW",
        help=f"{AUTO}, {OFF} (each by itself), {JAX} (as JAX finds)",
    )
    group.add_argument("--coordinator", default="", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num-processes", type=int, default=None, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=int, default=None, metavar="I", help="which this is, from 0 on")


def given_by(args: Any) -> Given:
    """Return what the command line says."""
    return Given(args.distributed, args.coordinator, args.num_processes, args.process_id)


def begin(given: Given, environ: Mapping[str, str] = os.environ) -> bool:
    """Join the other processes, where there are any; return whether there are."""
    found = None if is_joined() else place(given, environ)
    if found is not None:
        join(found)
    return is_joined()


def place(given: Given, environ: Mapping[str, str]) -> Place | None:
    """Return which process of how many this is; None where it is the only one.

    >>> place(Given(), {"JTL_COORDINATOR": "a:1", "JTL_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"})
    Place(source='JTL_NUM_PROCESSES', coordinator='a:1', num_processes=2, process_id=1, devices=None)

    Raises:
        UserError: what is said is not enough, or no number.
    """
    how = given.how or environ.get(HOW_VARIABLE, "") or AUTO
    if how not in HOW:
        raise UserError(f"--distributed is {shown(how)}; expected one of {nearest(how, HOW)}")
    if how == OFF:
        return None
    if how == JAX:
        return Place("JAX's own detection")
    words = (given.coordinator, _text(given.num_processes), _text(given.process_id))
    own = tuple(word or environ.get(name, "") for word, name in zip(words, OWN, strict=True))
    flags = ("--coordinator", "--num-processes", "--process-id")
    for names, found in ((OWN, own), (OF_JAX, tuple(environ.get(name, "") for name in OF_JAX))):
        if any(found[1:]):
            names = tuple(
                flag if word else name for flag, word, name in zip(flags, words, names, strict=True)
            )
            return _several(_told(names, found, environ))
    for find in ENGINES.values():
        found = find(environ)
        if found is not None:
            return _several(found)
    return None


def join(found: Place) -> None:
    """Meet the other processes; before anything touches a device.

    Raises:
        UserError: they cannot be met.
    """
    import jax

    # Its handler would take SIGTERM from `signals`, whose request all processes agree on.
    jax.config.update("jax_enable_preemption_service", False)
    # What it warns of, proxies that hold up the start, shows as a start that is not made.
    jax.config.update("jax_check_proxy_envs", False)
    # Processors would run a step and what is asked for after it side by side, and each process meet the
    # others in an order of its own.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(
            coordinator_address=found.coordinator or None,
            num_processes=found.num_processes,
            process_id=found.process_id,
            local_device_ids=found.devices,
            cluster_detection_method="deactivate" if found.coordinator else None,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        who = f"process {found.process_id} of {found.num_processes}" if found.coordinator else "this process"
        raise UserError(
            f"{who} (by {found.source}) could not meet the others at {found.coordinator or 'an address'!r}: "
            f"{shortened(str(error))}; check that the address is that of process 0, that its port is free, "
            f"and that all processes were started; --distributed={OFF} runs each by itself"
        ) from error
    peers.watch(store(), process_id(), num_processes())


def is_joined() -> bool:
    """Return whether this is one of several processes."""
    # A process that has not imported jax is alone.
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def process_id() -> int:
    """Return the number of this process; 0 of one that is alone."""
    return _state().process_id if is_joined() else 0


def num_processes() -> int:
    """Return how many processes this program has."""
    return _state().num_processes if is_joined() else 1


def is_writer() -> bool:
    """Return whether this process is the one that writes the run folder, and talks to people."""
    return process_id() == 0


def told(name: str, make: Callable[[], Any]) -> Any:
    """Return what process 0 makes, in all processes; of JSON's types, and once of a name.

    What it raises ends all of them (see `peers`).
    """
    if not is_joined():
        return make()
    key = f"jtl/told/{name}"
    if is_writer():
        text = json.dumps([make()])
        store().key_value_set(key, text)
        return json.loads(text)[0]
    return json.loads(_waited_for(key))[0]


def meet(name: str) -> None:
    """Wait until all processes are here; once of a name. A lost one ends all of them (see `peers`).

    Before programs that reach over processes are run for the first time: how they come together then, on
    processors (Gloo), gives up after 30 s.
    """
    if is_joined():
        store().wait_at_barrier(f"jtl/met/{name}", END_SECONDS * 1000)


def leave(code: int, said: str = "") -> None:
    """End this process's part: with code 0, or one that all have agreed on, when the others are done, too.

    `said` is why it ends by itself ("": it does not), which then ends all of them.
    """
    if not is_joined():
        return
    if said:
        peers.end_all(store(), process_id(), num_processes(), said, code)
        return
    import jax

    store().wait_at_barrier("jtl/done", END_SECONDS * 1000)
    peers.leave_off()
    jax.distributed.shutdown()


def await_cause(error: BaseException) -> None:
    """Wait, where a lost process may be why this one failed, until that is found; it then ends this one."""
    import jax

    if is_joined() and isinstance(error, jax.errors.JaxRuntimeError):
        peers.suspect()


def tell_doing(what: str) -> None:
    """Let the other processes know what this one is doing."""
    if is_joined():
        peers.tell_doing(what)


def doing_of_others() -> dict[int, str]:
    """Return what the other processes are doing, as far as they said, by their numbers; {} of none."""
    return peers.doing_of_others(store(), process_id()) if is_joined() else {}


def store() -> Any:
    """Return JAX's service, which keeps texts by key."""
    return _state().client


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state


def _waited_for(key: str) -> str:
    import jax

    while True:
        try:
            return store().blocking_key_value_get(key, POLL_MILLISECONDS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _several(found: Place) -> Place | None:
    return None if found.num_processes == 1 else found


def _told(names: tuple[str, ...], words: tuple[str, ...], environ: Mapping[str, str]) -> Place:
    """Return the place that three words say: where the others are met, how many there are, and which is this.

    The last may be left to the engine, which numbers its tasks.
    """
    coordinator, count, index = words
    if not index:
        named = next((name for name in INDEXES if environ.get(name)), "")
        names, index = (*names[:2], named or names[2]), environ.get(named, "")
    for name, word in zip(names, (coordinator, count, index), strict=True):
        if not word:
            raise UserError(f"{name} is not given; expected all of {', '.join(names)}")
    numbers = [_number(name, word) for name, word in zip(names[1:], (count, index), strict=True)]
    if not 0 <= numbers[1] < numbers[0]:
        raise UserError(f"{names[2]} is {index} of {count} processes; expected 0 to {numbers[0] - 1}")
    if ":" not in coordinator:
        raise UserError(f"{names[0]} is {coordinator!r}; expected HOST:PORT of process 0")
    devices = environ.get("JTL_LOCAL_DEVICES", "")
    local = tuple(_number("JTL_LOCAL_DEVICES", each) for each in devices.split(",")) if devices else None
    return Place(names[1], coordinator, numbers[0], numbers[1], local)


def _number(name: str, word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise UserError(f"{name} is {shown(word)}; expected a whole number") from error


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
