"""Trials of faults on this machine: what a run comes to when it is disturbed.

    python -m benchmarks.faults kills --num 60 --seed 0 --out record.json
    python -m benchmarks.faults bits|signals|together|processes|folders|inputs|machine --num 40 --out …

The exit code is 1 where a trial went wrong; the record says which, and why.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.faults import (
    bits,
    folders,
    inputs,
    kills,
    machine,
    processes,
    record,
    runs,
    signals,
    together,
)
from benchmarks.faults.runs import Setup

TRIALS: dict[str, Callable[[Setup, int, int], Iterable[record.Trial]]] = {
    "bits": bits.trials,
    "folders": folders.trials,
    "inputs": inputs.trials,
    "kills": kills.trials,
    "machine": machine.trials,
    "processes": processes.trials,
    "signals": signals.trials,
    "together": together.trials,
}


def main() -> int:
    """Run one group of trials; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=tuple(TRIALS))
    parser.add_argument("--num", type=int, default=20, help="number of trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the record, a .json file")
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"), help="where the runs are made")
    parser.add_argument("--processes", type=int, default=1, help="trials at a time")
    parser.add_argument("--only", default="", help="only trials whose name has this regular expression")
    parser.add_argument("--compile-anew", action="store_true", help="share no compiled programs")
    args = parser.parse_args()
    for each in signals.SIGNALS:
        # What a shell told this process to ignore (`nohup`) it goes on to pass over, but what is started does
        # not inherit that: handlers are gone with the first word of another program.
        if signal.getsignal(each) == signal.SIG_IGN:
            signal.signal(each, _pass_over)
    setup = Setup(args.folder.resolve(), is_shared=not args.compile_anew)
    setup.folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("XLA_FLAGS", None)
    if not setup.target.exists() and args.what != "inputs":
        runs.write_target(setup)
    chosen = [
        trial for trial in TRIALS[args.what](setup, args.num, args.seed) if re.search(args.only, trial.name)
    ]
    about = {"seed": args.seed, "is_compiled_shared": setup.is_shared}
    return min(1, record.run_all(args.what, chosen, args.out, processes=args.processes, about=about))


def _pass_over(*_: object) -> None:
    """Take a signal and do nothing."""


if __name__ == "__main__":
    sys.exit(main())
