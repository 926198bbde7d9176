"""The verb `jtl report`: make the report of a run anew, or of several side by side, from their folders."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl.errors import UserError
from jtl.verbs.contract import Overrides, Verb, refuse, say_next, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of jtl train")
    parser.add_argument(
        "--out",
        default="",
        metavar="FILE",
        help="where to write (default: report.html in the run's folder, of several in this one)",
    )


def run(*, runs: Sequence[str], out: str = "") -> dict[str, Any]:
    """Write the report of one run, or of several side by side, and return where it is.

    Raises:
        UserError: a folder is no finished run, or a file of it is damaged, or the report cannot be written.
    """
    from jtl import files
    from jtl.report import folder, page

    found = [folder.read(_checked(path)) for path in runs]
    path = Path(out) if out else (found[0].path if len(found) == 1 else Path()) / page.NAME
    try:
        text = page.of_run(found[0]) if len(found) == 1 else page.compared(found)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        raise UserError(
            f"a file of {', '.join(map(repr, runs))} does not say what a run writes ({type(error).__name__}: "
            f"{error}); restore it, or remove summary.json and repeat the command of the run"
        ) from error
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"--out {str(path)!r}: expected the name of a file in a folder that is there")
    files.replace_text(path, text)
    sys.stderr.write(f"{path}: {len(text) / 1e6:.1f} MB, opens in any browser, with no network\n")
    return {"runs": list(runs), "report": str(path), "num_bytes": len(text.encode())}


def _checked(run_folder: str) -> Path:
    path = Path(run_folder)
    if not (path / "config.json").is_file():
        raise UserError(
            f"{run_folder!r} is no run folder: config.json is missing; expected what --workdir named"
        )
    if not (path / "summary.json").is_file():
        raise UserError(f"run {run_folder!r} has no summary.json yet; repeat its training command first")
    return path


def _command(args: argparse.Namespace, overrides: Overrides) -> int:
    refuse(overrides)
    show(args, run(runs=args.runs, out=args.out))
    say_next(
        ["jtl", "evaluate", "--run", args.runs[0], "--data", "DATA"],
        ["jtl", "predict", "--run", args.runs[0], "FILES"],
    )
    return 0


VERB = Verb("make report.html of a run anew, or of several side by side", add_arguments, _command)
