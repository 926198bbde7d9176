"""The command line: `jtl VERB`, exit codes, and the one line a user sees when something can be mended.

Nothing heavy is imported before a verb runs, so that `--help` is immediate; and next to nothing before
signals are heard.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from jtl import output, signals

if TYPE_CHECKING:
    import argparse

OVERRIDE = "--config."
BUG_EXIT_CODE, MENDABLE_EXIT_CODE = 1, 2
# What shells add to the number of the signal that ended a process.
SIGNAL_EXIT_CODE = 128


def main(argv: Sequence[str] | None = None, verb: str = "") -> None:
    """Run the command line, behind `verb` if there is one, and exit; `argv` is for a process that goes on.

    0: done; 2: the user can mend it; 75: stopped, and the same command goes on; 128 and the signal's number:
    a verb that begins anew was stopped; 1: a bug.
    """
    given = [*([verb] if verb else []), *(sys.argv[1:] if argv is None else argv)]
    if argv is None and "--debug" not in given:
        output.hush()
    with output.enduring() as streams, signals.listening(partial(_end_at_once, given)) as stop:
        try:
            code = _run(given)
            sys.stdout.flush()
            fault = output.lost(streams)
            if fault is not None and not code:
                from jtl import faults

                code = _failed(f"standard output: {faults.of_system(fault)}")
            if code not in (MENDABLE_EXIT_CODE, BUG_EXIT_CODE):
                _part(code)
        except signals.Stopped:
            code = _stopped(stop.number, given)
            _part(code, f"was stopped by {signal.Signals(stop.number).name}")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if argv is None and (stop.is_set or code in (MENDABLE_EXIT_CODE, BUG_EXIT_CODE)):
            # Threads that still work (a compiler, a pool, a save that failed) would hold up the end of the
            # interpreter, or have the last word.
            os._exit(code)
    sys.exit(code)


def _run(given: list[str]) -> int:
    """Run the verb and return the exit code, having said what went wrong."""
    import argparse
    import traceback

    from jtl import distributed, errors, faults, heap, memory, runtime
    from jtl.verbs import VERBS

    words, overrides = split_overrides(given)
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return MENDABLE_EXIT_CODE
    args = parser.parse_args(words)
    try:
        args = argparse.Namespace(**{name: _at_home(value) for name, value in vars(args).items()})
        memory.check_room()
        heap.keep()
        runtime.prepare()
        return VERBS[args.verb].command(args, overrides)
    except Exception as error:
        distributed.await_cause(error)
        found = faults.explained(error)
        if found is None or args.debug:
            traceback.print_exc()
        code = BUG_EXIT_CODE if found is None else _failed(found)
        if found is None:
            found = errors.shortened(repr(error))
            sys.stderr.write(f"jtl: bug: {found}; please report it with the lines above\n")
        _part(code, f"failed: {_one_line(found)}")
        return code


def _at_home(value: Any) -> Any:
    """Return an argument with `~` in front as the home folder it means; the shell does so only for some."""
    from jtl import files

    if isinstance(value, list):
        return [_at_home(each) for each in value]
    return files.expanded(value) if isinstance(value, str) and value[:2] in ("~", "~/") else value


def _failed(text: str) -> int:
    sys.stderr.write(f"jtl: error: {_one_line(text)}\n")
    return MENDABLE_EXIT_CODE


def _stopped(number: int, given: Sequence[str], write: Callable[[str], object] | None = None) -> int:
    """Say that a signal ended the command, and return the exit code."""
    from jtl.runtime import PREEMPTED_EXIT_CODE
    from jtl.verbs import VERBS

    goes_on = bool(given) and given[0] in VERBS and VERBS[given[0]].goes_on
    following = "; nothing is lost: repeat the command to go on" if goes_on else ""
    (write or sys.stderr.write)(f"jtl: stopped by {signal.Signals(number).name}{following}\n")
    return PREEMPTED_EXIT_CODE if goes_on else SIGNAL_EXIT_CODE + number


def _part(code: int, said: str = "") -> None:
    """Part from the other processes, where there are any; `said` is why this one ends by itself."""
    distributed = sys.modules.get("jtl.distributed")
    if distributed is not None:
        distributed.leave(code, said)


def _end_at_once(given: Sequence[str], number: int) -> None:
    """End a process that a signal cannot reach: C++ code is running, or has swallowed it."""
    code = _stopped(number, given, lambda text: os.write(2, text.encode()))
    _part(code, f"was stopped by {signal.Signals(number).name}")
    os._exit(code)


def _parser() -> "argparse.ArgumentParser":
    import argparse

    from jtl.verbs import VERBS
    from jtl.verbs.contract import add_verbs

    parser = argparse.ArgumentParser(prog="jtl", description="Transfer learning in JAX.", allow_abbrev=False)
    add_verbs(parser, "verb", VERBS)
    return parser


def split_overrides(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the words without `--config.NAME=VALUE` or `--config.NAME VALUE`, and those as pairs.

    >>> split_overrides(["train", "--config", "a.py", "--config.train.seed=1", "--config.baseline"])
    (['train', '--config', 'a.py'], [('train.seed', '1'), ('baseline', 'true')])
    """
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith(OVERRIDE):
            rest.append(word)
            continue
        name, has_value, value = word.removeprefix(OVERRIDE).partition("=")
        if not has_value:
            follows = index < len(words) and not words[index].startswith("--")
            value = words[index] if follows else "true"
            index += follows
        overrides.append((name, value))
    return rest, overrides


def _one_line(message: str) -> str:
    return " ".join(message.split())
