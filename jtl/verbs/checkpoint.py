"""The verb `jtl checkpoint`: what checkpoints a run or its mirror has, whether they are sound, and fewer."""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from jtl import owner
from jtl.errors import UserError, counted
from jtl.verbs.contract import Verb, add_verbs, check_at_least, refuse, say_next, show


def _folder(run: str) -> Path:
    """Return the folder of the checkpoints of a run.

    Raises:
        UserError: the run has none.
    """
    from jtl.training import checkpoint_files
    from jtl.weights.run_folder import CHECKPOINTS_NAME

    folder = Path(run) / CHECKPOINTS_NAME
    if not checkpoint_files.steps(folder):
        raise UserError(f"{str(folder)!r} has no checkpoint; expected a run folder of jtl train (--run)")
    return folder


def ls(run: str) -> list[dict[str, Any]]:
    """Return step, time, size and metric of each checkpoint.

    Behind them stand the files of what never trains, which they share, and what was set aside as damaged.

    Raises:
        UserError: the run has none, or one cannot be read just now.
    """
    from jtl.training import checkpoint_files, once
    from jtl.training.checkpoint_faults import Damage

    folder = _folder(run)
    metas: dict[int, Any] = {}
    rows = []
    for step in checkpoint_files.steps(folder):
        path = folder / str(step)
        row: dict[str, Any] = {"step": step, **_of_files(path), "state": "whole"}
        try:
            metas[step] = checkpoint_files.sound_meta(path)
        except Damage as damage:
            row["state"] = f"damaged: {damage}"
        rows.append(row)
    best = checkpoint_files.best(metas)
    for row in rows:
        meta = metas.get(row["step"], {})
        metric = meta.get("metric", "")
        entry = next((each for each in meta.get("history", ()) if each["step"] == row["step"]), {})
        row["metric"], row["value"], row["is_best"] = metric, entry.get(metric), row["step"] == best
    aside = checkpoint_files.set_aside(Path(run))
    kept = [
        {"step": each.name, **_of_files(each), "state": "what never trains"} for each in once.files(Path(run))
    ]
    return [*rows, *kept, *({"step": each.name, **_of_files(each), "state": "set aside"} for each in aside)]


def verify(run: str) -> dict[str, str]:
    """Return what is wrong with each checkpoint by step, "" of a sound one; all of their bytes are read.

    Files of what never trains, which checkpoints share, stand by their names behind them.

    Raises:
        UserError: the run has none, or one cannot be read just now.
    """
    from jtl.training import checkpoint_files, once
    from jtl.training.checkpoint_faults import Damage
    from jtl.weights.formats.orbax_folder import ONCE

    folder = _folder(run)
    found, shared = {}, {}
    for step in checkpoint_files.steps(folder):
        try:
            meta = checkpoint_files.check(folder / str(step))
            found[str(step)] = ""
            if about := meta.get(ONCE):
                shared[about["file"]] = meta
        except Damage as damage:
            found[str(step)] = str(damage)
    return found | {file: once.fault(Path(run), meta) for file, meta in shared.items()}


def prune(run: str, *, keep: int = 1) -> list[int]:
    """Remove all checkpoints but the newest `keep` and the best; return the steps of those gone.

    Raises:
        UserError: the run has none, goes on just now, or one cannot be removed.
    """
    from jtl.training import checkpoint_files
    from jtl.training.checkpoint_faults import Damage

    check_at_least("--keep", keep)
    folder = _folder(run)
    with owner.owned(Path(run), lambda line: _say(line)):
        metas: dict[int, Any] = {}
        for step in checkpoint_files.steps(folder):
            try:
                metas[step] = checkpoint_files.sound_meta(folder / str(step))
            except Damage as damage:
                raise UserError(
                    f"checkpoint {step} is damaged ({damage}); nothing was removed: move "
                    f"{str(folder / str(step))!r} away, and repeat the command"
                ) from damage
        if metas and "metric" not in metas[max(metas)]:
            raise UserError(
                f"checkpoint {max(metas)} does not say which is the best: an earlier version saved it; "
                f"nothing was removed: go on with the run once, or remove checkpoints by hand"
            )
        kept = {*sorted(metas)[-keep:], checkpoint_files.best(metas)}
        gone = [step for step in sorted(metas) if step not in kept]
        for step in gone:
            # Whole or not at all: what is half removed would be taken for damage.
            part = folder / f"{step}.removed"
            (folder / str(step)).rename(part)
            shutil.rmtree(part)
    return gone


def fetch(run: str, mirror: str) -> list[int]:
    """Bring a run folder here from its mirror (`train.mirror`), and return the steps of its checkpoints.

    Raises:
        UserError: there is something in the folder, or the mirror cannot be read, or has no run.
    """
    from jtl import object_store
    from jtl.training import checkpoint_files
    from jtl.training import mirror as mirrors
    from jtl.weights.run_folder import CHECKPOINTS_NAME

    folder = Path(run)
    with owner.owned(folder, lambda line: _say(line)):
        if not owner.is_free(folder):
            raise UserError(f"--run {run!r} is not empty; give another folder, which is made")
        if not mirrors.fetch(object_store.opened(mirror), folder, None, lambda line: _say(line)):
            raise UserError(f"--mirror {mirror!r} has no run; expected what train.mirror named")
    return checkpoint_files.steps(folder / CHECKPOINTS_NAME)


def _of_files(path: Path) -> dict[str, Any]:
    from jtl.training import checkpoint_files

    return {"saved": int(path.stat().st_mtime), "bytes": checkpoint_files.num_bytes(path)}


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, metavar="FOLDER", help="a run folder of jtl train")


def _add_prune(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--keep", type=int, default=1, metavar="N", help="newest to keep, beside the best")


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, metavar="FOLDER", help="where to; a folder that is not there")
    parser.add_argument("--mirror", required=True, metavar="URL", help="what train.mirror named")


def _ls(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import memory
    from jtl.report import tables

    refuse(overrides)
    rows = ls(args.run)
    table = [["step", "saved", "size", "metric", "", ""]]
    for row in rows:
        value = "" if row.get("value") is None else f"{row['metric']} {row['value']:.4f}"
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["saved"]))
        mark = "best" if row.get("is_best") else ""
        table.append([str(row["step"]), saved, memory.text(row["bytes"]), value, mark, row["state"]])
    _say(tables.aligned(table, left=(1, 3, 4, 5), width=tables.WHOLE))
    show(args, {"checkpoints": rows})
    say_next(
        ["jtl", "checkpoint", "verify", "--run", args.run], ["jtl", "checkpoint", "prune", "--run", args.run]
    )
    return 0


def _verify(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    refuse(overrides)
    found = verify(args.run)
    for name, fault in found.items():
        _say(f"{f'checkpoint {name}' if name.isdecimal() else name}: {fault or 'sound'}")
    show(args, {"checkpoints": found})
    bad = [step for step, fault in found.items() if fault and step.isdecimal()]
    for name, fault in found.items():
        if fault and not name.isdecimal():
            raise UserError(
                f"{name!r}, what never trains of all checkpoints, is damaged ({fault}); `jtl train` writes "
                f"it again from the weights of the run, if these are what they were"
            )
    if bad:
        raise UserError(
            f"{counted(len(bad), 'checkpoints are')} damaged (step {', '.join(bad)}); `jtl train` moves them "
            f"away and goes on from one before"
        )
    say_next(["jtl", "checkpoint", "prune", "--run", args.run], ["jtl", "evaluate", "--run", args.run])
    return 0


def _prune(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    refuse(overrides)
    gone = prune(args.run, keep=args.keep)
    _say(f"removed {', '.join(map(str, gone))}" if gone else "there is nothing to remove")
    show(args, {"removed": gone})
    say_next(["jtl", "checkpoint", "ls", "--run", args.run])
    return 0


def _fetch(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    refuse(overrides)
    show(args, {"steps": fetch(args.run, args.mirror)})
    say_next(["jtl", "checkpoint", "verify", "--run", args.run], ["jtl", "evaluate", "--run", args.run])
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


ACTIONS: dict[str, Verb] = {
    "ls": Verb("list the checkpoints of a run", _add_run, _ls),
    "verify": Verb("read all checkpoints of a run and hold them against their digests", _add_run, _verify),
    "fetch": Verb("bring a run folder here from its mirror in an object store", _add_fetch, _fetch),
    "prune": Verb("remove all checkpoints of a run but the newest and the best", _add_prune, _prune),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, each with its arguments."""
    add_verbs(parser, "action", ACTIONS)


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    return ACTIONS[args.action].command(args, overrides)


VERB = Verb("list, verify and prune the checkpoints of a run", add_arguments, _command, has_output=False)
