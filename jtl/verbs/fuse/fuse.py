"""The verb `jtl fuse`: one model of several finished runs, or the mean of their predictions."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl import owner
from jtl.errors import UserError, nearest
from jtl.verbs.contract import (
    BATCH_SIZE,
    Overrides,
    Verb,
    add_batch_size,
    check_at_least,
    say_next,
    show,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--runs", nargs="+", required=True, metavar="FOLDER", help="finished run folders")
    parser.add_argument(
        "--method",
        required=True,
        help="uniform or greedy (model soups), wise (WiSE-FT: between the start and the run), ensemble",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="a new run folder; of an ensemble, its predictions"
    )
    parser.add_argument(
        "--start",
        default="",
        metavar="SPEC",
        help="wise: weights or a run folder to interpolate with (default: what the run started from)",
    )
    parser.add_argument(
        "--alphas", default="", metavar="LIST", help="wise: shares of the run to try (default: 0,0.1,…,1)"
    )
    parser.add_argument(
        "--statistics-of",
        default="",
        metavar="FOLDER",
        help="estimate BatchNorm's statistics on these examples, which need no labels (AdaBN)",
    )
    add_batch_size(parser)


def run(
    *,
    runs: Sequence[str],
    method: str,
    out: str,
    start: str = "",
    alphas: str = "",
    statistics_of: str = "",
    batch_size: int = BATCH_SIZE,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Fuse the runs into a folder, print how, and return what its fuse.json says.

    `start` is a spec or a run folder and `alphas` are numbers separated by commas (wise); `statistics_of` is
    a folder of examples that running statistics are estimated on.

    Raises:
        UserError: runs, method and options do not fit together.
    """
    from jtl.verbs.fuse import members
    from jtl.verbs.fuse.methods import METHODS

    check_at_least("--batch-size", batch_size)
    if method not in METHODS:
        raise UserError(f"--method {method!r} is unknown; nearest: {nearest(method, METHODS)}")
    chosen = METHODS[method]
    given = {"start": start, "alphas": alphas, "statistics_of": statistics_of}
    options = {name: value for name, value in given.items() if value}
    _check(method, len(runs), options)
    folder = Path(out)
    with owner.owned(folder, members.say):
        _check_out(folder)
        opened = [members.open_member(each, overrides) for each in runs]
        members.say(*(note for each in opened for note in each.file.notes))
        members.check_alike(opened, is_one_model=chosen.is_one_model)
        members.say(*members.differing_notes(opened, is_one_model=chosen.is_one_model))
        return chosen.fuse(opened, folder, batch_size, **options)


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        runs=args.runs,
        method=args.method,
        out=args.out,
        start=args.start,
        alphas=args.alphas,
        statistics_of=args.statistics_of,
        batch_size=args.batch_size,
        overrides=overrides,
    )
    show(args, result)
    say_next(*_following(args))
    return 0


def _following(args: argparse.Namespace) -> list[list[str]]:
    """Return the commands that come next: what was made used, or of predictions its members side by side."""
    from jtl.verbs.fuse.methods import METHODS

    side_by_side = ["jtl", "report", *args.runs, "--out", "report.html"]
    if not METHODS[args.method].is_one_model:
        return [side_by_side]
    made = ["--run", args.out]
    return [["jtl", "evaluate", *made, "--data", "DATA"], ["jtl", "predict", *made, "FILES"]]


def _check(name: str, count: int, options: dict[str, str]) -> None:
    """Raise UserError unless number of runs and options are such as the method takes."""
    from jtl.verbs.fuse.methods import METHODS

    method = METHODS[name]
    if not method.min_runs <= count <= method.max_runs:
        wanted = "one" if method.max_runs == 1 else f"{method.min_runs} or more"
        raise UserError(f"--method {name} is given {count} runs; expected {wanted}")
    for option in options:
        if option not in method.options:
            users = ", ".join(other for other, each in METHODS.items() if option in each.options)
            raise UserError(
                f"--{option.replace('_', '-')} is given, and --method {name} has no use for it; "
                f"it is for {users}"
            )
    if count == 1 and not method.max_runs == 1 and "statistics_of" not in options:
        raise UserError(
            f"--method {name} is given one run, of which it would make a copy; give more --runs, "
            f"or --statistics-of FOLDER"
        )


def _check_out(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or not owner.is_free(folder)):
        raise UserError(f"--out {str(folder)!r} is there already and not empty; give another")


VERB = Verb("make one model of several runs: soups, WiSE-FT, ensembles", add_arguments, _command)
