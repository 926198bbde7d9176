"""What `jtl compare` reads from its finished runs, and writes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl import files
from jtl.errors import UserError
from jtl.report import summary
from jtl.tasks import TASKS, TaskKind
from jtl.training import adaptation
from jtl.verbs.compare import plot as comparison_plot
from jtl.verbs.compare import tables as comparison
from jtl.verbs.compare.plan import RESULT, Plan, folder_of
from jtl.verbs.compare.tables import Comparison, Outcome, Setup

RUNNING = "running"


def outcome(plan: Plan, number: int, label: str, result: Mapping[str, Any]) -> Outcome:
    """Return a finished run as a row of the comparison.

    Raises:
        UserError: it did not measure what is compared.
    """
    folder = folder_of(plan, number, label)
    metric = _metric(plan)
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


def compared(plan: Plan, outcomes: Sequence[Outcome]) -> Comparison:
    """Return the numbers of the runs there are.

    Raises:
        UserError: none of them has the column that decides.
    """
    metric = _metric(plan)
    setup = Setup(
        roles={each.label: each.role for each in plan.variants},
        metric=metric,
        is_maximized=_task_kind(plan).is_maximized(metric),
        unit=plan.unit,
        # Nadeau & Bengio's share of a fold to its training set.
        shared_fraction=1 / (len(plan.numbers) - 1) if plan.unit == "fold" else 0.0,
        column=plan.column,
    )
    try:
        return comparison.compare(setup, outcomes)
    except ValueError as error:
        raise UserError(f"--by: {error}") from error


def write(plan: Plan, found: Comparison | None, status: str) -> dict[str, Any]:
    """Write compare.json and compare.csv of what is finished, at the end compare.png; return the first."""
    asked = {each.label: dict(each.overrides) for each in plan.variants}
    result = {"status": status, "settings": asked, f"{plan.unit}s": plan.numbers}
    if found is not None:
        result |= comparison.as_json(found)
        files.replace_text(plan.folder / "compare.csv", comparison.csv_text(found))
    if found is not None and status != RUNNING:
        comparison_plot.plot(found, plan.folder / "compare.png")
    result = summary.plain(result)
    summary.write_json(plan.folder / RESULT, result)
    return result


def _metric(plan: Plan) -> str:
    """Return what is compared: the metric that picks the best step, the task's where that needs no labels."""
    own = next(iter(plan.settings.values()))
    if own.train.monitor and not own.train.monitor.startswith(adaptation.PREFIX):
        return own.train.monitor
    return _task_kind(plan).monitor


def _task_kind(plan: Plan) -> TaskKind:
    return TASKS[next(iter(plan.settings.values())).task.name]
