"""What a search found: its trials from the best to the worst, what mattered, and the steps it saved."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jtl.report.tables import WHOLE, aligned
from jtl.verbs.tune import study, trials

if TYPE_CHECKING:
    import optuna

NAMES = {
    "COMPLETE": "whole",
    "PRUNED": "given up",
    "FAIL": "failed",
    "RUNNING": "not finished",
    "WAITING": "waits",
}
SHOWN = 12


def of(plan: trials.Plan, found: "optuna.Study") -> dict[str, Any]:
    """Return everything as plain values."""
    rows = [_row(plan, each) for each in found.get_trials()]
    whole = sorted(
        (row for row in rows if row["state"] == NAMES["COMPLETE"]), key=lambda row: _place(plan, row)
    )
    ended = [row for row in rows if row["planned"]]
    steps, planned = (sum(row[name] for row in ended) for name in ("steps", "planned"))
    return {
        "metric": plan.metric,
        "is_maximized": plan.is_maximized,
        "trials": rows,
        "best": whole[0] if whole else None,
        "importance": study.importance(found),
        "steps": {"made": steps, "planned": planned, "saved": 1 - steps / planned if planned else 0.0},
    }


def text(result: Mapping[str, Any]) -> str:
    """Return the best trials as a table, and a line for what mattered and what was saved."""
    names = list(result["trials"][0]["values"]) if result["trials"] else []
    rows = [["trial", result["metric"], "steps", *names]]
    whole = [row for row in result["trials"] if row["value"] is not None]
    sign = -1 if result["is_maximized"] else 1
    for row in sorted(whole, key=lambda row: (sign * row["value"], row["number"]))[:SHOWN]:
        shown = [_short(row["values"].get(name, "")) for name in names]
        rows.append([str(row["number"]), f"{row['value']:.4f}", f"{row['steps']:,}", *shown])
    states = [row["state"] for row in result["trials"]]
    counts = ", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states))
    steps = result["steps"]
    lines = [aligned(rows, left=(), width=WHOLE), "", f"{len(states)} trials: {counts}"]
    lines.append(
        f"{steps['made']:,} steps of {steps['planned']:,} were made: giving up saved {steps['saved']:.0%}"
    )
    if result["importance"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importance"].items())
        lines.append(f"what explains the spread of the whole trials (fANOVA): {shares}")
    return "\n".join(lines)


def _row(plan: trials.Plan, each: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    about = each.user_attrs
    return {
        "number": each.number,
        "state": NAMES[each.state.name],
        "value": each.value if each.state.name == "COMPLETE" else None,
        "measured": [value for _, value in sorted(each.intermediate_values.items())],
        "loss": about.get(trials.LOSS),
        "values": dict(each.params),
        "steps": about.get(trials.STEPS, 0),
        "planned": about.get(trials.PLANNED, 0),
        "why": about.get(trials.WHY, ""),
        "folder": str(trials.folder_of(plan, each.number)),
    }


def _place(plan: trials.Plan, row: Mapping[str, Any]) -> tuple[float, float, int]:
    """Return what whole trials are put in order by: small sets give equal values, of which the loss tells."""
    value = -row["value"] if plan.is_maximized else row["value"]
    return value, row["loss"] if row["loss"] is not None else 0.0, row["number"]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
