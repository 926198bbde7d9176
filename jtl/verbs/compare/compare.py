"""`jtl compare`: the same data and budget from scratch, frozen and fine-tuned, and whatever else is listed.

Every variant and seed (or fold) is a run as `jtl train` makes it, in OUT/VARIANT/seed0, so that the same
command goes on where it stopped. All variants of one seed come before the next seed: what is there when a
comparison is cut short is in pairs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jtl import metrics
from jtl.errors import UserError
from jtl.report import summary
from jtl.report.console import Live
from jtl.runtime import StopRequest
from jtl.tasks import TASKS, LabelStats
from jtl.training import adaptation, build, config
from jtl.training import run as train
from jtl.training.config import Config
from jtl.training.loop import FINISHED
from jtl.verbs.compare import plot as comparison_plot
from jtl.verbs.compare import tables as comparison
from jtl.verbs.compare import variants
from jtl.verbs.compare.tables import Comparison, Outcome, Setup
from jtl.verbs.compare.variants import Variant

RESULT = "compare.json"
DEFAULT_SEEDS = "3"
RUNNING, FAILED = "running", "failed"


class Request(NamedTuple):
    """What to compare: the configuration, where to write, the variants (none: the three usual ones).

    `seeds` is a number of them from 0 on, or a list such as "0,1,5" ("": three); or else the data is cut into
    `folds` (0: not). `column` names the column that decides ("": the first of `comparison.DECISIVE`).
    """

    config: str
    overrides: Sequence[tuple[str, str]]
    out: str
    variants: tuple[str, ...]
    seeds: str
    folds: int
    column: str


class Plan(NamedTuple):
    """The runs to make: variants, what they differ in ("seed", "fold"), its numbers, and settings by run."""

    variants: list[Variant]
    unit: str
    numbers: list[int]
    settings: dict[tuple[int, str], Config]
    folder: Path
    column: str


def run(request: Request) -> dict[str, Any]:
    """Make the runs that are not there yet, and return what OUT/compare.json says.

    Raises:
        UserError: a variant is malformed, the folder holds something else, or a run failed.
    """
    live = Live()
    plan = _plan(request)
    _check(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    for each in plan.variants:
        changed = ", ".join(f"{name}={value}" for name, value in each.overrides)
        live.log(f"variant {each.label}: {changed}")
    if not (plan.folder / RESULT).exists():
        _write(plan, None, RUNNING)
    outcomes: list[Outcome] = []
    found, status = None, "finished"
    with StopRequest() as stop:
        for number, label in plan.settings:
            if stop.is_set:
                status = "preempted"
                break
            live.log(f"\n{label}, {plan.unit} {number}: run {len(outcomes) + 1} of {len(plan.settings)}")
            try:
                result = _run(plan, number, label, stop)
            except UserError:
                _write(plan, found, FAILED)
                raise
            if result["status"] not in FINISHED:
                status = result["status"]
                break
            outcomes.append(_outcome(plan, number, label, result))
            found = _compared(plan, outcomes)
            _write(plan, found, RUNNING)
    if found is not None:
        live.log("\n" + "\n".join([comparison.table(found), "", *comparison.sentences(found)]))
    if status not in FINISHED:
        live.log(f"stopped after {len(outcomes)} of {len(plan.settings)} runs; repeat the command to go on")
    return _write(plan, found, status)


def seeds(text: str) -> list[int]:
    """Return the seeds that "3" (0, 1, 2) or "4,7" (those two; "4," is one) mean.

    Raises:
        UserError: they are none, or one is named twice.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds is {text!r}; expected how many, such as 3, or which, such as 0,1,5")
    numbers = [int(part) for part in parts]
    found = numbers if "," in text else list(range(numbers[0]))
    if not found or len(set(found)) != len(found):
        raise UserError(f"--seeds is {text!r}; expected one or more, each once")
    return found


def _plan(request: Request) -> Plan:
    base = config.read(request.config, request.overrides)
    chosen = variants.read(request.variants or variants.defaults(base), base)
    by_label = {each.label: variants.settings(each, base) for each in chosen}
    unit, numbers, at = _repetitions(request)
    settings = {(number, label): at(own, number) for number in numbers for label, own in by_label.items()}
    return Plan(chosen, unit, numbers, settings, Path(request.out), request.column)


def _repetitions(request: Request) -> tuple[str, list[int], Callable[[Config, int], Config]]:
    """Return what the runs of a variant differ in, its numbers, and settings at one of them."""
    if not request.folds:
        numbers = seeds(request.seeds or DEFAULT_SEEDS)
        return "seed", numbers, lambda own, seed: replace(own, train=replace(own.train, seed=seed))
    if request.seeds:
        raise UserError("--seeds and --folds are both given; expected one of them")
    folds = request.folds
    if folds < 2:
        raise UserError(f"--folds is {folds}; expected 2 or more")
    return (
        "fold",
        list(range(folds)),
        lambda own, fold: replace(own, data=replace(own.data, folds=folds, fold=fold)),
    )


def _check(plan: Plan) -> None:
    """Check what can be known before hours of training.

    Raises:
        UserError: there will be nothing to measure on, or the folder holds something else.
    """
    first = next(iter(plan.settings.values()))
    if plan.column and plan.column not in comparison.COLUMNS:
        raise UserError(f"--by is {plan.column!r}; expected one of {', '.join(comparison.COLUMNS)}")
    is_split = first.data.val_fraction > 0 and not first.data.folds
    is_measured = is_split or (first.data.target and first.data.has_target_labels)
    if not is_measured and not {"val", "test"} & build.open_splits(first).keys():
        raise UserError(
            "there is no validation and no test split to compare on; set data.val_fraction above 0"
        )
    if plan.folder.exists() and not plan.folder.is_dir():
        raise UserError(f"--out {str(plan.folder)!r} is a file; expected a folder")
    if plan.folder.exists() and any(plan.folder.iterdir()) and not (plan.folder / RESULT).exists():
        raise UserError(f"--out {str(plan.folder)!r} is not empty and holds no {RESULT}; give another --out")
    for (number, label), own in plan.settings.items():
        folder = _folder(plan, number, label)
        changed = config.conflicts(own, _begun(folder, config.to_dict(own)))
        if changed:
            raise UserError(
                f"run folder {str(folder)!r} was made by other settings ({'; '.join(changed[:4])}); give "
                f"another --out, or the variant {label!r} another label"
            )


def _begun(folder: Path, default: dict[str, Any]) -> dict[str, Any]:
    """Return the settings a run folder began with, or the default where it did not begin."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text()) if path.exists() else default
    except ValueError as error:
        raise UserError(
            f"{str(path)!r} is damaged ({error}); remove its folder or give another --out"
        ) from error


def _folder(plan: Plan, number: int, label: str) -> Path:
    return plan.folder / label / f"{plan.unit}{number}"


def _run(plan: Plan, number: int, label: str, stop: StopRequest) -> dict[str, Any]:
    try:
        return train.run(plan.settings[number, label], _folder(plan, number, label), stop)
    except UserError as error:
        raise UserError(f"variant {label!r}, {plan.unit} {number}: {error}") from error


def _outcome(plan: Plan, number: int, label: str, result: Mapping[str, Any]) -> Outcome:
    folder = _folder(plan, number, label)
    metric = _metric(plan, folder)
    values = comparison.columns_of(result, metric)
    if not values:
        raise UserError(
            f"run {str(folder)!r} measured no {metric}; expected it on a validation or test split"
        )
    return Outcome(
        variant=label,
        number=number,
        values=values,
        steps=result["steps"],
        seconds=round(sum(result["seconds"].values()), 3),
        num_trainable=result["parameters"]["trainable"],
        folder=str(folder),
    )


def _metric(plan: Plan, run_folder: Path) -> str:
    """Return what is compared: the metric that picks the best step, the task's where that needs no labels."""
    own = next(iter(plan.settings.values()))
    if own.train.monitor and not own.train.monitor.startswith(adaptation.PREFIX):
        return own.train.monitor
    labels = json.loads((run_folder / "meta.json").read_text())["labels"]
    return TASKS[own.task.name].build(own.task, LabelStats.from_dict(labels)).monitor


def _compared(plan: Plan, outcomes: Sequence[Outcome]) -> Comparison:
    metric = _metric(plan, Path(outcomes[0].folder))
    setup = Setup(
        roles={each.label: each.role for each in plan.variants},
        metric=metric,
        is_maximized=metrics.is_maximized(metric),
        unit=plan.unit,
        # Nadeau & Bengio's share of a fold to its training set.
        shared_fraction=1 / (len(plan.numbers) - 1) if plan.unit == "fold" else 0.0,
        column=plan.column,
    )
    try:
        return comparison.compare(setup, outcomes)
    except ValueError as error:
        raise UserError(f"--by: {error}") from error


def _write(plan: Plan, found: Comparison | None, status: str) -> dict[str, Any]:
    """Write compare.json and compare.csv of what is finished, at the end compare.png; return the first."""
    asked = {each.label: dict(each.overrides) for each in plan.variants}
    result = {"status": status, "settings": asked, f"{plan.unit}s": plan.numbers}
    if found is not None:
        result |= comparison.as_json(found)
        summary.replace_text(plan.folder / "compare.csv", comparison.csv_text(found))
    if found is not None and status != RUNNING:
        comparison_plot.plot(found, plan.folder / "compare.png")
    result = summary.plain(result)
    summary.write_json(plan.folder / RESULT, result)
    return result
