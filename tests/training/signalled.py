"""A run that ends itself: python tests/training/signalled.py SIGKILL STEP FLAG …, with the flags of jtl.main.

Once the run has reported step STEP, the process sends itself the signal: at a place of the run, not at a
moment of the clock, however busy the machine is.
"""

import os
import signal
import sys
from collections.abc import Mapping

from jtl import cli
from jtl.report.writer import Writer


def main(name: str, last_step: int, flags: list[str]) -> None:
    """Run the command with a writer that sends the signal."""
    report = Writer.scalars

    def report_and_signal(self: Writer, step: int, values: Mapping[str, float]) -> None:
        report(self, step, values)
        if step == last_step:
            os.kill(os.getpid(), signal.Signals[name])

    Writer.scalars = report_and_signal
    sys.argv[1:] = flags
    cli.main(verb="train")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
