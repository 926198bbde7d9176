"""The verb `jtl lr-find`: a hundred steps at rates from very low to too high, and which one to take."""

import argparse
import sys
from pathlib import Path
from typing import Any

from jtl import signals
from jtl.errors import UserError
from jtl.verbs import subject
from jtl.verbs.contract import (
    Overrides,
    Verb,
    check_at_least,
    out_folder,
    override_words,
    say_next,
    show,
)

LOW, HIGH, STEPS, MIN_STEPS = 1e-7, 1.0, 100, 20
RESULT, PICTURE = "lr-find.json", "lr-find.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    subject.add_arguments(parser)
    parser.add_argument("--low", type=float, default=LOW, metavar="RATE", help=f"the first rate ({LOW:g})")
    parser.add_argument("--high", type=float, default=HIGH, metavar="RATE", help=f"the last rate ({HIGH:g})")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"from low to high ({STEPS})")
    parser.add_argument("--out", default="", metavar="FOLDER", help=f"where {RESULT} and {PICTURE} go")
    parser.epilog = "Any setting: --config.SECTION.NAME=VALUE"


def run(
    what: subject.Subject,
    *,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    out: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Sweep the learning rate, and return the rates, their losses and the one to take; no model is kept.

    Raises:
        UserError: the range is empty, the loss falls nowhere in it, or configuration, data and weights do not
            fit.
    """
    subject.check(what)
    check_at_least("--steps", steps, MIN_STEPS)
    if not 0 < low < high < float("inf"):
        raise UserError(f"--low is {low:g} and --high {high:g}; expected rates above 0, the lower one first")
    folder = out_folder(out) if out else None
    from jtl.report import summary
    from jtl.verbs.lr_find import plot, sweep

    settings = subject.settings(what, overrides)
    with signals.listening() as stop:
        found = sweep.swept(settings, low, high, steps, stop)
    best = sweep.suggested(found)
    end = "given up, as the loss grew" if found.is_cut else "the last"
    _say(
        f"{len(found.rates)} steps at rates from {found.rates[0]:.2g} to {found.rates[-1]:.2g} ({end}): the "
        f"smoothed loss falls the fastest at {best.steepest:.2g} and is least at {best.least:.2g}\n"
        f"take optim.learning_rate={best.learning_rate:g}: {best.rule}"
    )
    result = summary.plain(
        {
            "learning_rate": best.learning_rate,
            "rule": best.rule,
            "steepest": best.steepest,
            "least": best.least,
            "rates": found.rates,
            "losses": found.losses,
            "smoothed": sweep.smoothed(found.losses),
            "is_cut": found.is_cut,
        }
    )
    if folder is not None:
        plot.plot(found, best, folder / PICTURE)
        summary.write_json(folder / RESULT, result)
    return result


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    what = subject.of_arguments(args)
    result = run(what, low=args.low, high=args.high, steps=args.steps, out=args.out, overrides=overrides)
    show(args, result)
    rate = f"--config.optim.learning_rate={result['learning_rate']:g}"
    kept = [each for each in overrides if each[0] != "optim.learning_rate"]
    words = [*subject.words(what), rate, *override_words(kept)]
    say_next(["jtl", "train", *words], page=str(Path(args.out) / PICTURE) if args.out else "")
    return 0


VERB = Verb("sweep the learning rate over a hundred steps, and say which to take", add_arguments, _command)
