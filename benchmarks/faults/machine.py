"""What a machine does to a run: no space, no permission, no descriptors, no memory, no reader, a dead worker.

Right is the end of the run as if nothing had been, or exit code 2 with a line `jtl: error: …` as the last on
the screen, the process and its workers gone within `LIMIT_SECONDS`; and once the machine is mended, the same
command comes to the same end. Some need root and a Linux that mounts; elsewhere they are left out.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults import kills, moments, outcome, record, reference, runs
from benchmarks.faults.moments import Moment
from benchmarks.faults.mounts import as_bounded_root, disk, is_root, remounted, resized
from benchmarks.faults.reference import Reference
from benchmarks.faults.runs import Setup, Started
from benchmarks.faults.together import half

KIND = "full"
DONE, MENDABLE, PREEMPTED = 0, 2, 75
LIMIT_SECONDS = 240.0
NOBODY = 65534


class Place(NamedTuple):
    """Where one trial is made: its folder, what the disturbed process shows, and the undisturbed run."""

    setup: Setup
    folder: Path
    screen: Path
    ours: Reference

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"


class Disturbed(NamedTuple):
    """How a disturbed process ended."""

    code: int | None
    shown: str
    num_left: int


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return one trial of each disturbance, the first `num`."""
    del seed
    for number, (name, (run, needs_root)) in enumerate(list(DISTURBANCES.items())[:num]):
        yield record.Trial(name, partial(_trial, setup, run, number, needs_root=needs_root))


def _trial(
    setup: Setup, run: Callable[[Place], dict[str, Any]], number: int, *, needs_root: bool
) -> dict[str, Any]:
    if needs_root and not is_root():
        return {"left_out": "needs root", "faults": []}
    folder = setup.folder / "machine" / f"{number:02d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = run(Place(setup, folder, folder / "disturbed.screen", reference.make(setup, KIND)))
    if not found["faults"]:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _disturbed(
    place: Place,
    *,
    before: Sequence[str] = (),
    redirected: str = "",
    settings: dict[str, str] | None = None,
    variables: dict[str, str | None] | None = None,
    at: tuple[Moment, Callable[[Started], None]] | None = None,
) -> Disturbed:
    """Run the command: behind the words `before`, with the shell's `redirected`, disturbed `at` a moment."""
    words = [*before, *runs.command(place.setup, KIND, place.run, settings)]
    if redirected:
        words = ["bash", "-c", redirected, "bash", *words]
    wanted = {**runs.environment(place.setup), **(variables or {})}
    known = {name: value for name, value in wanted.items() if value is not None}
    started = runs.start(words, place.run, place.screen, known)
    if at is not None and moments.reach(started, at[0], LIMIT_SECONDS):
        at[1](started)
    code = runs.wait(started, LIMIT_SECONDS)
    return Disturbed(code, runs.screen_text(started), len(runs.left(started)))


def _found(place: Place, ended: Disturbed, allowed: Sequence[int], *, says: str = "") -> dict[str, Any]:
    """Hold the end against the codes that are right; `says` has to be in the line of an error."""
    last = runs.last_line(ended.shown)
    faults = []
    if ended.code is None:
        faults.append(f"no end after {LIMIT_SECONDS:.0f} s: {last[:200]}")
    elif ended.code not in allowed:
        faults.append(f"ended with {ended.code}, expected one of {allowed}: {last[:200]}")
    if ended.code == MENDABLE and not last.startswith("jtl: error: "):
        faults.append(f"the last line on the screen is not the error: {last[:200]}")
    if ended.code == MENDABLE and says.lower() not in last.lower():
        faults.append(f"the error does not name {says!r}: {last[:200]}")
    if runs.TRACEBACK in ended.shown:
        faults.append("a traceback is on the screen")
    if ended.num_left:
        faults.append(f"{ended.num_left} processes are left")
    if ended.code == DONE:
        faults += outcome.against(place.run, place.ours.outcome)
    return {"code": ended.code, "last_line": last[:300], "faults": faults}


def _and_mended(place: Place, found: dict[str, Any]) -> dict[str, Any]:
    """Repeat the command on the mended machine."""
    _, more = kills.repeated(place.setup, KIND, place.folder, place.ours)
    return {**found, "faults": [*found["faults"], *(f"once mended: {fault}" for fault in more)]}


def _small_disk(place: Place, size: str) -> dict[str, Any]:
    with disk(place.folder / "disk", size) as mounted:
        place = place._replace(folder=mounted)
        found = _found(place, _disturbed(place), (MENDABLE,), says="space")
        resized(mounted, "500m")
        return _and_mended(place, found)


def _filled_disk(place: Place) -> dict[str, Any]:
    with disk(place.folder / "disk", "20m") as mounted:
        place = place._replace(folder=mounted)

        def fill(_: Started) -> None:
            # Unbuffered: what is left in a buffer would fail when the file is closed.
            with (mounted / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(1 << 16))

        ended = _disturbed(place, at=(Moment("step 4", moments.numbers_of(4)), fill))
        found = _found(place, ended, (MENDABLE,), says="space")
        (mounted / "filler").unlink()
        return _and_mended(place, found)


def _file_limit(place: Place, blocks: int) -> dict[str, Any]:
    ended = _disturbed(place, redirected=f'ulimit -f {blocks}; exec "$@"')
    return _and_mended(place, _found(place, ended, (MENDABLE,)))


def _read_only(place: Place, *, is_begun: bool) -> dict[str, Any]:
    with disk(place.folder / "disk", "100m") as mounted:
        place = place._replace(folder=mounted)
        if is_begun:
            shutil.copytree(half(place.setup, KIND), place.run, symlinks=True)
        before = _all_files(mounted)
        with remounted(mounted, "ro"):
            found = _found(place, _disturbed(place), (MENDABLE,), says="read-only")
        if _all_files(mounted) != before:
            found["faults"].append("files of the read-only folder changed")
        return _and_mended(place, found)


def _of_another(place: Place, name: str, mode: int) -> dict[str, Any]:
    """Give what `name` matches in a half-finished run folder to another user, with the mode."""
    shutil.copytree(half(place.setup, KIND), place.run, symlinks=True)
    steps = outcome.steps_on_disk(place.run)
    pattern = name.format(newest=steps[-1])
    changed = list(place.run.glob(pattern)) if name else [place.run]
    modes = {path: path.stat().st_mode & 0o777 for path in changed}
    for path in changed:
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)
    found = _found(place, _disturbed(place, before=as_bounded_root()), (MENDABLE,), says="permission")
    for path, old in modes.items():
        if path.exists():
            path.chmod(old)
            os.chown(path, 0, 0)
    if outcome.steps_on_disk(place.run) != steps or (place.run / "damaged").exists():
        found["faults"].append(f"checkpoints {steps} became {outcome.steps_on_disk(place.run)}")
    return _and_mended(place, found)


def _vanished(place: Place, name: str) -> dict[str, Any]:
    path = place.run / name

    def remove(_: Started) -> None:
        shutil.rmtree(path, ignore_errors=True)

    ended = _disturbed(place, at=(Moment("step 3", moments.numbers_of(3)), remove))
    found = _found(place, ended, (MENDABLE,), says=str(place.run))
    shutil.rmtree(place.run, ignore_errors=True)
    return _and_mended(place, found)


def _renamed(place: Place) -> dict[str, Any]:
    other = place.folder / "elsewhere"

    def rename(_: Started) -> None:
        place.run.rename(other)

    ended = _disturbed(place, at=(Moment("step 3", moments.numbers_of(3)), rename))
    found = _found(place, ended, (MENDABLE,), says=str(place.run))
    shutil.rmtree(place.run, ignore_errors=True)
    other.rename(place.run)
    return _and_mended(place, found)


def _limited(place: Place, limit: str) -> dict[str, Any]:
    ended = _disturbed(place, redirected=f'{limit}; exec "$@"')
    return _and_mended(place, _found(place, ended, (DONE, MENDABLE)))


def _dead_worker(place: Place, number: int) -> dict[str, Any]:
    def kill(started: Started) -> None:
        workers = [pid for pid in runs.session(started) if pid != started.process.pid]
        for pid in [pid for pid in workers if "resource_tracker" not in _words(pid)][:number]:
            os.kill(pid, signal.SIGKILL)

    moment = Moment("step 3", moments.numbers_of(3))
    ended = _disturbed(place, settings={"inputs.workers": "2"}, at=(moment, kill))
    return _and_mended(place, _found(place, ended, (MENDABLE,), says="worker"))


def _redirected(place: Place, how: str) -> dict[str, Any]:
    return _found(place, _disturbed(place, redirected=how), (DONE,))


def _lost_terminal(place: Place) -> dict[str, Any]:
    """Close the terminal the run writes to, which sends no signal to a session that has none."""
    main, other = os.openpty()
    with ExitStack() as stack:
        stack.callback(os.close, other)
        name = os.ttyname(other)
        close = (Moment("step 2", moments.numbers_of(2)), lambda _: os.close(main))
        ended = _disturbed(place, redirected=f'exec "$@" >{name} 2>&1', at=close)
    return _found(place, ended, (DONE, PREEMPTED))


def _hangup(place: Place) -> dict[str, Any]:
    """Send SIGHUP to a run that was told to ignore it, as `nohup` tells it."""
    hangup = (
        Moment("step 3", moments.numbers_of(3)),
        lambda started: started.process.send_signal(signal.SIGHUP),
    )
    return _found(place, _disturbed(place, redirected='trap "" HUP; exec "$@"', at=hangup), (DONE,))


def _surroundings(place: Place, **variables: str | None) -> dict[str, Any]:
    return _found(place, _disturbed(place, variables=variables), (DONE,))


def _without_names(place: Place) -> dict[str, Any]:
    """Run without HOME and without an entry in the list of users."""
    empty = place.folder / "passwd"
    empty.write_text("", encoding="utf-8")
    shell = f'mount --bind {empty} /etc/passwd && unset HOME USER LOGNAME && exec "$@"'
    return _found(place, _disturbed(place, before=["unshare", "-m", "bash", "-c", shell, "bash"]), (DONE,))


def _all_files(folder: Path) -> list[tuple[str, float]]:
    return sorted((str(path), path.lstat().st_mtime) for path in folder.rglob("*"))


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "resource_tracker"


# What disturbs, and whether that needs root.
DISTURBANCES: dict[str, tuple[Callable[[Place], dict[str, Any]], bool]] = {
    **{
        f"a disk of {size}": (partial(_small_disk, size=size), True)
        for size in ("16k", "300k", "900k", "1500k")
    },
    "a disk that fills at step 4": (_filled_disk, True),
    "files of 8 kB at most": (partial(_file_limit, blocks=8), False),
    "files of 100 kB at most": (partial(_file_limit, blocks=100), False),
    "a new run on a read-only disk": (partial(_read_only, is_begun=False), True),
    "a begun run on a read-only disk": (partial(_read_only, is_begun=True), True),
    "another user's run folder": (partial(_of_another, name="", mode=0o755), True),
    "another user's checkpoints": (partial(_of_another, name="checkpoints", mode=0o755), True),
    "another user's config.json": (partial(_of_another, name="config.json", mode=0o600), True),
    "unreadable states": (partial(_of_another, name="checkpoints/*/state", mode=0o000), True),
    "an unreadable newest checkpoint": (partial(_of_another, name="checkpoints/{newest}", mode=0o000), True),
    "a run folder removed": (partial(_vanished, name=""), False),
    "checkpoints removed": (partial(_vanished, name="checkpoints"), False),
    "a run folder renamed": (_renamed, False),
    "64 descriptors": (partial(_limited, limit="ulimit -n 64"), False),
    "24 descriptors": (partial(_limited, limit="ulimit -n 24"), False),
    **{
        f"{size / 1e6} GB of memory": (partial(_limited, limit=f"ulimit -v {size}"), False)
        for size in (400_000, 900_000, 1_500_000, 3_000_000)
    },
    "a dead worker": (partial(_dead_worker, number=1), False),
    "two dead workers": (partial(_dead_worker, number=2), False),
    "a pipe closed at once": (partial(_redirected, how='"$@" 2>&1 | true; exit ${PIPESTATUS[0]}'), False),
    "a pipe closed after a line": (
        partial(_redirected, how='"$@" 2>&1 | head -1; exit ${PIPESTATUS[0]}'),
        False,
    ),
    "standard output closed": (partial(_redirected, how='exec "$@" >&-'), False),
    "standard error closed": (partial(_redirected, how='exec "$@" 2>&-'), False),
    "standard input closed": (partial(_redirected, how='exec "$@" <&-'), False),
    "all three closed": (partial(_redirected, how='exec "$@" <&- >&- 2>&-'), False),
    "output to a full device": (partial(_redirected, how='exec "$@" >/dev/full 2>&1'), False),
    "a terminal that is closed": (_lost_terminal, False),
    "a hangup under nohup": (_hangup, False),
    "no names of users": (_without_names, True),
    "a locale that is not UTF-8": (
        partial(_surroundings, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
        False,
    ),
    "no folder for temporary files": (partial(_surroundings, TMPDIR="/nowhere"), False),
}
