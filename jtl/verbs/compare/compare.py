"""The verb `jtl compare`: the same data and budget from scratch, frozen, fine-tuned, and what else is listed.

Every variant and seed (or fold) is a run as `jtl train` makes it, in OUT/VARIANT/seed0, so that the same
command goes on where it stopped. All variants of one seed come before the next seed: what is there when a
comparison is cut short is in pairs.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl import owner, runtime, signals
from jtl.errors import UserError
from jtl.verbs.contract import Overrides, Verb, say_next, show

if TYPE_CHECKING:
    import jtl.report.console
    import jtl.verbs.compare.plan

FAILED, PREEMPTED = "failed", "preempted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="what to train, such as vit_ft.py:ti16"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the same command on it goes on")
    parser.add_argument(
        "--variants",
        default="",
        metavar="LIST",
        help='[LABEL=]STRATEGY[:SETTING=VALUE[;…]],… such as scratch,full,"lora:strategy.rank=4" '
        "(default: scratch, probe, and the config's strategy)",
    )
    parser.add_argument("--variant", action="append", default=[], metavar="ONE", help="one more; repeatable")
    parser.add_argument("--seeds", default="", metavar="N", help="how many (default 3), or which: 0,1,5")
    parser.add_argument(
        "--folds", type=int, default=0, metavar="K", help="instead, validate on each K-th of the data in turn"
    )
    parser.add_argument(
        "--by", default="", metavar="COLUMN", help="what decides (target last, val best or test, if there)"
    )
    parser.epilog = "Any setting of all runs: --config.SECTION.NAME=VALUE"


def run(
    *,
    config: str,
    out: str,
    variants: Sequence[str] = (),
    seeds: str = "",
    folds: int = 0,
    column: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Make the runs that are not there yet, and return what OUT/compare.json says.

    Without `variants` the three usual ones are compared. `seeds` is a number of them from 0 on, or a list
    such as "0,1,5" ("": three); or else the data is cut into `folds` (0: not). `column` names the column that
    decides ("": the first of `tables.DECISIVE`).

    Raises:
        UserError: a variant is malformed, the folder holds something else, or a run failed.
    """
    from jtl.report.console import Live
    from jtl.training import config as configs
    from jtl.verbs.compare import plan as plans

    live = Live()
    folder = Path(out)
    with owner.owned(folder, live.log), signals.listening() as stop:
        plan = plans.make(configs.read(config, overrides), folder, variants, seeds, folds, column)
        plans.check(plan)
        plans.rehearse(plan)
        for each in plan.variants:
            changed = ", ".join(f"{name}={value}" for name, value in each.overrides)
            live.log(f"variant {each.label}: {changed}")
        return compared(plan, stop, live)


def compared(
    plan: "jtl.verbs.compare.plan.Plan",
    stop: signals.StopRequest,
    live: "jtl.report.console.Live",
) -> dict[str, Any]:
    """Make the runs that are not there yet, and compare what there is."""
    from jtl.training.ready import FINISHED
    from jtl.verbs.compare import plan as plans
    from jtl.verbs.compare import results, tables

    if not (plan.folder / plans.RESULT).exists():
        results.write(plan, None, results.RUNNING)
    outcomes: list[tables.Outcome] = []
    found, status = None, "finished"
    try:
        for number, label in plan.settings:
            stop.check()
            live.log(f"\n{label}, {plan.unit} {number}: run {len(outcomes) + 1} of {len(plan.settings)}")
            result = _run(plan, number, label, stop)
            if result["status"] not in FINISHED:
                status = result["status"]
                break
            outcomes.append(results.outcome(plan, number, label, result))
            found = results.compared(plan, outcomes)
            results.write(plan, found, results.RUNNING)
    except signals.Stopped:
        status = PREEMPTED
    except UserError:
        results.write(plan, found, FAILED)
        raise
    with stop.deferred():
        if found is not None:
            live.log("\n" + "\n".join([tables.table(found), "", *tables.sentences(found)]))
        if status not in FINISHED:
            live.log(
                f"stopped after {len(outcomes)} of {len(plan.settings)} runs; repeat the command to go on"
            )
        return results.write(plan, found, status)


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    with runtime.shared_compiled():
        from jtl.verbs.compare import variants

        listed = variants.split(args.variants, ",") if args.variants else []
        result = run(
            config=args.config,
            out=args.out,
            variants=(*listed, *args.variant),
            seeds=args.seeds,
            folds=args.folds,
            column=args.by,
            overrides=overrides,
        )
    show(args, result)
    if result["status"] == PREEMPTED:
        return runtime.PREEMPTED_EXIT_CODE
    say_next(*_following(args, result), page=str(Path(args.out) / "compare.png"))
    return 0


def _following(args: argparse.Namespace, result: Mapping[str, Any]) -> list[list[str]]:
    """Return the commands that come next: a run of every variant side by side, and one of the best used."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for run in result["runs"]:
        runs.setdefault(run["variant"], []).append(run)
    sign = 1 if result["is_maximized"] else -1

    def mean(variant: str) -> float:
        values = [
            run["values"][result["column"]] for run in runs[variant] if result["column"] in run["values"]
        ]
        return sign * sum(values) / len(values) if values else -float("inf")

    firsts = [each[0]["folder"] for each in runs.values()]
    best = runs[max(runs, key=mean)][0]["folder"]
    side_by_side = ["jtl", "report", *firsts, "--out", str(Path(args.out) / "report.html")]
    return [side_by_side, ["jtl", "predict", "--run", best, "FILES"]]


def _run(
    plan: "jtl.verbs.compare.plan.Plan", number: int, label: str, stop: signals.StopRequest
) -> dict[str, Any]:
    from jtl.training import mirror
    from jtl.training import run as train
    from jtl.verbs.compare.plan import folder_of

    folder = folder_of(plan, number, label)
    settings = mirror.below(plan.settings[number, label], folder.relative_to(plan.folder).as_posix())
    try:
        return train.run(settings, folder, stop)
    except UserError as error:
        raise UserError(f"variant {label!r}, {plan.unit} {number}: {error}") from error


VERB = Verb("train by several strategies, and say which helped", add_arguments, _command, goes_on=True)
