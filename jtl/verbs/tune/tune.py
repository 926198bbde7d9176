"""The verb `jtl tune`: search settings by runs, and say whether the winner is better than luck.

Trials, the study and the runs of the comparison lie in one folder; the same command on it goes on.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl import owner, runtime, signals
from jtl.errors import UserError
from jtl.verbs import subject
from jtl.verbs.contract import Overrides, Verb, check_at_least, out_folder, override_words, say_next, show

if TYPE_CHECKING:
    import optuna

    import jtl.report.console
    import jtl.verbs.tune.trials

TRIALS, SEEDS, PRUNER = 20, 3, "median"
RESULT, PICTURE, WINNER, LOGS = "tune.json", "tune.png", "winner", "logs"
FINISHED, PREEMPTED = "finished", "preempted"
DEFAULT, BEST = "default", "winner"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    subject.add_arguments(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the same command on it goes on")
    parser.add_argument(
        "--space",
        nargs="+",
        default=[],
        metavar="SETTING=VALUES",
        help="optim.learning_rate=log:1e-5..1e-2 strategy.rank=4|8|16 train.batch_size=int:8..64 (default: "
        "by the strategy)",
    )
    parser.add_argument("--trials", type=int, default=0, metavar="N", help=f"how many ({TRIALS})")
    parser.add_argument("--minutes", type=float, default=0.0, metavar="M", help="begin none after so long")
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, metavar="N", help=f"of winner and default ({SEEDS})"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of what the search draws (0)")
    parser.add_argument("--pruner", default=PRUNER, help=f"median, hyperband or none ({PRUNER})")
    parser.add_argument("--processes", type=int, default=1, metavar="P", help="trials at a time (1)")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    parser.epilog = "Any setting of all trials: --config.SECTION.NAME=VALUE"


def run(
    what: subject.Subject,
    *,
    out: str,
    space: Sequence[str] = (),
    trials: int = 0,
    minutes: float = 0.0,
    seeds: int = SEEDS,
    seed: int = 0,
    pruner: str = PRUNER,
    parts: Sequence[Sequence[str]] = (),
    is_part: bool = False,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Search, compare the winner with the default settings, and return what OUT/tune.json says.

    `trials` 0 are `TRIALS`, or any number where there are `minutes`. `parts` are the commands of processes
    that make the trials in place of this one; with `is_part` this is one of them, and does nothing else.

    Raises:
        UserError: the space cannot be searched, the folder holds another search, or a trial cannot be.
    """
    from jtl.verbs.tune import study

    study.check_package()
    subject.check(what)
    check_at_least("--trials", trials, 0)
    check_at_least("--seeds", seeds, 0)
    if not 0 <= minutes < float("inf"):
        raise UserError(f"--minutes is {minutes:g}; expected a positive number, or 0 for no limit")
    from jtl.report.console import Live
    from jtl.training import config
    from jtl.verbs.tune import space as spaces
    from jtl.verbs.tune import trials as made

    live, folder = Live(), out_folder(out)
    base = subject.settings(what, overrides, say=live.log)
    dimensions = spaces.read(space, base)
    count = trials or (sys.maxsize if minutes else TRIALS)
    plan = made.made(base, dimensions, folder, count, minutes)
    about = {
        "settings": config.without_resumable(config.kept(base)),
        "space": [each._asdict() for each in dimensions],
        "pruner": pruner,
        "seed": seed,
    }
    found = study.opened(folder, about, pruner, seed, is_maximized=plan.is_maximized)
    for each in dimensions:
        live.log(f"searched: {each.name} {spaces.described(each)}")
    with signals.listening() as stop:
        is_whole = _made(plan, found, parts, stop, live)
        if is_part:
            return {"status": FINISHED if is_whole else PREEMPTED}
        with owner.owned(folder, live.log):
            return _told(plan, found, stop, live, seeds=seeds, is_whole=is_whole)


def _made(
    plan: "jtl.verbs.tune.trials.Plan",
    found: "optuna.Study",
    parts: Sequence[Sequence[str]],
    stop: signals.StopRequest,
    live: "jtl.report.console.Live",
) -> bool:
    """Make the trials, here or in other processes; return whether all were made."""
    from jtl.verbs.tune import trials

    if not parts:
        try:
            return trials.made_all(plan, found, stop, live.log)
        except signals.Stopped:
            return False
    logs = plan.folder / LOGS
    logs.mkdir(exist_ok=True)
    begun = []
    try:
        for number, words in enumerate(parts):
            with (logs / f"process{number}.log").open("ab") as log:
                begun.append(subprocess.Popen([sys.executable, "-m", "jtl", *words], stderr=log, stdout=log))
        live.log(f"{len(begun)} processes make trials; what they say is in {logs}")
        codes = [each.wait() for each in begun]
    except signals.Stopped:
        for each in begun:
            each.terminate()
        codes = [each.wait() for each in begun]
    if faulty := [place for place, code in enumerate(codes) if code not in (0, runtime.PREEMPTED_EXIT_CODE)]:
        last = (
            (logs / f"process{faulty[0]}.log")
            .read_text(encoding="utf-8", errors="replace")
            .strip()
            .splitlines()[-1:]
        )
        raise UserError(f"process {faulty[0]} failed: {''.join(last)}; {logs} has all of it")
    return not any(codes)


def _told(
    plan: "jtl.verbs.tune.trials.Plan",
    found: "optuna.Study",
    stop: signals.StopRequest,
    live: "jtl.report.console.Live",
    *,
    seeds: int,
    is_whole: bool,
) -> dict[str, Any]:
    """Say and write what was found, once all trials are made with its comparison."""
    from jtl.report import summary
    from jtl.verbs.tune import plot, results

    result = {"status": FINISHED if is_whole else PREEMPTED, **results.of(plan, found)}
    live.log(f"\n{results.text(result)}")
    if is_whole and result["best"] is None:
        raise UserError(
            "no trial came to its end; search a smaller space, or look at the last trial's folder"
        )
    if is_whole and seeds:
        compared = _compared(plan, result["best"], seeds, stop, live)
        result["comparison"] = compared
        result["status"] = FINISHED if compared["status"] == FINISHED else PREEMPTED
    if result["status"] == PREEMPTED:
        live.log("stopped; repeat the command to go on")
    result = summary.plain(result)
    plot.plot(result, plan.folder / PICTURE)
    summary.write_json(plan.folder / RESULT, result)
    return result


def _compared(
    plan: "jtl.verbs.tune.trials.Plan",
    best: dict[str, Any],
    seeds: int,
    stop: signals.StopRequest,
    live: "jtl.report.console.Live",
) -> dict[str, Any]:
    """Train the winner and the default settings at seeds the search has not seen; compare them in pairs."""
    from dataclasses import replace

    from jtl.training import config
    from jtl.verbs.compare import compare
    from jtl.verbs.compare import plan as plans
    from jtl.verbs.compare.variants import Variant
    from jtl.verbs.tune import trials

    changed = tuple(trials.overrides(plan, best["values"]))
    variants = [Variant(DEFAULT, DEFAULT, ()), Variant(BEST, "", changed)]
    numbers = [plan.base.train.seed + 1 + place for place in range(seeds)]
    settings = {}
    for number in numbers:
        for each in variants:
            own = config.with_overrides(plan.base, each.overrides)
            settings[number, each.label] = replace(own, train=replace(own.train, seed=number))
    live.log(f"\ntrial {best['number']} at seeds that the search has not seen, beside the default settings")
    compared = plans.Plan(variants, "seed", numbers, settings, plan.folder / WINNER, _column(settings))
    compared.folder.mkdir(exist_ok=True)
    result = compare.compared(compared, stop, live)
    if result.get("column", "").startswith("val"):
        live.log("It was chosen on the same validation examples: on others it gains less, if anything.")
    return result


def _column(settings: Any) -> str:
    """Return what decides: examples that chose nothing, where there are any."""
    from jtl.training import build

    return "test" if "test" in build.open_splits(next(iter(settings.values()))) else ""


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    check_at_least("--processes", args.processes)
    again = [*sys.argv[1:], "--part"]
    with runtime.shared_compiled():
        result = run(
            subject.of_arguments(args),
            out=args.out,
            space=args.space,
            trials=args.trials,
            minutes=args.minutes,
            seeds=args.seeds,
            seed=args.seed,
            pruner=args.pruner,
            parts=[again] * args.processes if args.processes > 1 and not args.part else (),
            is_part=args.part,
            overrides=overrides,
        )
    if result["status"] == PREEMPTED:
        return runtime.PREEMPTED_EXIT_CODE
    if args.part:
        return 0
    show(args, result)
    best = result["best"]
    values = [(name, str(value)) for name, value in best["values"].items()]
    given = [each for each in overrides if each[0] not in best["values"]]
    words = [*subject.words(subject.of_arguments(args)), *override_words([*given, *values])]
    say_next(
        ["jtl", "train", *words],
        ["jtl", "predict", "--run", best["folder"], "FILES"],
        page=str(Path(args.out) / PICTURE),
    )
    return 0


VERB = Verb("search settings by runs, and say what the winner gains", add_arguments, _command, goes_on=True)
