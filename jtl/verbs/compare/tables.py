"""A comparison of variants as numbers, tables, sentences and rows: which helped, and by how much."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jtl.report.tables import WHOLE, aligned
from jtl.verbs.compare.paired import Gain, Spread, gain, spread, verdict
from jtl.verbs.compare.variants import FINE_TUNED, FROM_SCRATCH, FROZEN

TARGET_COLUMNS = ("last", "selected", "oracle")
# The column that decides, the first that there is: where domains are adapted, validation is on the wrong one.
DECISIVE = ("target last", "val best", "test")
COLUMNS = ("val best", "val last", "test", "target last", "target selected", "target oracle")
SINGLE_HINT = "in one {unit}: there is no spread to judge it by; give more than one, such as --seeds 3"


class Outcome(NamedTuple):
    """One finished run: its variant, its seed or fold, its metric by column, and what it cost."""

    variant: str
    number: int
    values: dict[str, float]
    steps: int
    seconds: float
    num_trainable: int
    folder: str


class Setup(NamedTuple):
    """What is compared: role by variant, metric, what the runs differ in ("seed", "fold"), and the column.

    `shared_fraction` is `paired.gain`'s. `column` "" is the first of `DECISIVE` that there is.
    """

    roles: Mapping[str, str]
    metric: str
    is_maximized: bool
    unit: str
    shared_fraction: float
    column: str


class Comparison(NamedTuple):
    """The numbers: the spread by variant and column, and the gain by variant and reference, over `column`."""

    setup: Setup
    columns: tuple[str, ...]
    column: str
    outcomes: tuple[Outcome, ...]
    spreads: dict[str, dict[str, Spread]]
    gains: dict[str, dict[str, Gain]]


def columns_of(summary: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return a run's metric by column, from what its summary.json holds; what it lacks has no column.

    >>> columns_of({"best": {"val/accuracy": 0.9}, "final": {"val/accuracy": 0.8}}, "accuracy")
    {'val best': 0.9, 'val last': 0.8}
    """
    best, final, target = summary["best"], summary["final"], summary.get("target", {})
    found = {
        "val best": best.get(f"val/{metric}"),
        "val last": final.get(f"val/{metric}"),
        "test": best.get(f"test/{metric}"),
        **{f"target {name}": target[name].get(metric) for name in TARGET_COLUMNS if name in target},
    }
    return {name: value for name, value in found.items() if value is not None}


def compare(setup: Setup, outcomes: Sequence[Outcome]) -> Comparison:
    """Return the numbers of the finished runs; variants without any are left out.

    Raises:
        ValueError: the column asked for is in no run.
    """
    columns = tuple(dict.fromkeys(name for each in outcomes for name in each.values))
    column = setup.column or next((name for name in DECISIVE if name in columns), "")
    if column not in columns:
        raise ValueError(f"column {column!r} is in no run; expected one of {', '.join(columns)}")
    values: dict[str, dict[str, dict[int, float]]] = {}
    for each in outcomes:
        for name, value in each.values.items():
            values.setdefault(each.variant, {}).setdefault(name, {})[each.number] = value
    labels = [label for label in setup.roles if label in values]
    spreads = {
        label: {name: spread(list(runs.values())) for name, runs in values[label].items()} for label in labels
    }
    gains: dict[str, dict[str, Gain]] = {label: {} for label in labels}
    for label in labels:
        for reference in references(setup.roles, labels).values():
            found = gain(
                values[label].get(column, {}),
                values[reference].get(column, {}),
                is_maximized=setup.is_maximized,
                shared_fraction=setup.shared_fraction,
            )
            if label != reference and found is not None:
                gains[label][reference] = found
    return Comparison(setup, columns, column, tuple(outcomes), spreads, gains)


def references(roles: Mapping[str, str], labels: Sequence[str]) -> dict[str, str]:
    """Return the variant that stands for each role: the first that has it."""
    found: dict[str, str] = {}
    for label in labels:
        if roles[label]:
            found.setdefault(roles[label], label)
    return found


def table(found: Comparison) -> str:
    """Return a row a variant with its metric by column and its cost, and below a row with its gains."""
    rows = [["variant", "runs", *found.columns, "steps", "seconds", "trainable"]]
    for label, by_column in found.spreads.items():
        runs = [each for each in found.outcomes if each.variant == label]
        cells = [_mean(by_column.get(name)) for name in found.columns]
        seconds = sum(each.seconds for each in runs) / len(runs)
        costs = [f"{runs[0].steps:,}", f"{seconds:,.0f}", f"{runs[0].num_trainable:,}"]
        rows.append([label, str(len(runs)), *cells, *costs])
    refs = list(references(found.setup.roles, list(found.spreads)).values())
    if not refs:
        return aligned(rows, left=(0,), width=WHOLE)
    gains = [[f"gain in {found.column}", *(f"over {name}" for name in refs)]]
    gains += [[label, *(_gain(each.get(name)) for name in refs)] for label, each in found.gains.items()]
    return "\n\n".join(aligned(part, left=(0,), width=WHOLE) for part in (rows, gains))


def sentences(found: Comparison) -> list[str]:
    """Return in plain words which variant helped, by how much, and what cannot be told; warnings begin so."""
    labels = list(found.spreads)
    refs = references(found.setup.roles, labels)
    lines = []
    for label in labels:
        role = found.setup.roles[label]
        asked = (FROM_SCRATCH, FROZEN) if role == FROZEN else (FROM_SCRATCH, FROZEN, FINE_TUNED)
        for reference in (refs[name] for name in asked if name in refs):
            if reference in found.gains[label] and role != FROM_SCRATCH:
                lines.append(_sentence(found, label, reference))
    means = {label: each[found.column].mean for label, each in found.spreads.items() if found.column in each}
    chosen = (max if found.setup.is_maximized else min)(means, key=lambda label: means[label])
    lines.append(f"Best mean of {found.column} {found.setup.metric}: {chosen}, {means[chosen]:.4f}.")
    return [*lines, *_note(found)]


def csv_text(found: Comparison) -> str:
    """Return a row a run, for other programs."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["variant", found.setup.unit, *found.columns, "steps", "seconds", "trainable_parameters", "folder"]
    )
    for each in found.outcomes:
        cells = [each.values.get(name, "") for name in found.columns]
        writer.writerow(
            [each.variant, each.number, *cells, each.steps, each.seconds, each.num_trainable, each.folder]
        )
    return file.getvalue()


def as_json(found: Comparison) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "metric": found.setup.metric,
        "is_maximized": found.setup.is_maximized,
        "column": found.column,
        "unit": found.setup.unit,
        "variants": {
            label: {
                "role": found.setup.roles[label],
                "columns": {name: each._asdict() for name, each in by_column.items()},
                "gains": {
                    name: {**each._asdict(), "verdict": verdict(each)}
                    for name, each in found.gains[label].items()
                },
            }
            for label, by_column in found.spreads.items()
        },
        "runs": [each._asdict() for each in found.outcomes],
        "sentences": sentences(found),
    }


def _sentence(found: Comparison, label: str, reference: str) -> str:
    each, unit = found.gains[label][reference], found.setup.unit
    roles = found.setup.roles
    kind = verdict(each)
    if kind == "alike":
        amount = f"{'better' if each.mean > 0 else 'worse'} than {reference} by {abs(each.mean):.4f}"
        return f"{label} is {amount} in each of {each.num_pairs} {unit}s alike: no spread to judge it by."
    if kind == "single":
        side = "better" if each.mean > 0 else "worse"
        return f"{label} is {side} than {reference} by {abs(each.mean):.4f} {SINGLE_HINT.format(unit=unit)}."
    interval = f"{each.low:+.4f} to {each.high:+.4f}"
    if kind == "unclear":
        return (
            f"{label} and {reference} cannot be told apart: the gain of {each.mean:+.4f} ({interval}) is "
            f"within its spread over {each.num_pairs} {unit}s."
        )
    amount = f"{label} is {kind} than {reference} by {abs(each.mean):.4f} ({interval})"
    if kind == "better":
        return f"{amount}{': the pretrained weights help' * (roles[reference] == FROM_SCRATCH)}."
    are_alike = roles[label] == roles[reference]
    return f"{amount}." if are_alike else _WARNINGS.get(roles[reference], "{}.").format(amount)


# What to say, and to do, where a variant is worse than the one of that role.
_WARNINGS = {
    FROM_SCRATCH: "WARNING: {}: transfer hurts here. Try other weights, or train from scratch.",
    FROZEN: "WARNING: {}: fine-tuning hurts here. Keep the backbone frozen, or lower optim.learning_rate.",
}


def _note(found: Comparison) -> list[str]:
    gains = [each for by_reference in found.gains.values() for each in by_reference.values()]
    if not any(each.low is not None for each in gains):
        return []
    unit = found.setup.unit
    how = "paired t" if not found.setup.shared_fraction else "corrected resampled t (Nadeau & Bengio 2003)"
    scope = _SCOPES[unit]
    lines = [f"In brackets: 95 % intervals, {how} over {unit}s, each by itself. {scope}"]
    if "target selected" in found.columns:
        lines.append(
            "Target selected is at the step each variant's own monitor chose (summary.json says which)."
        )
    return lines


_SCOPES = {
    "seed": "Seeds vary the head's start and the order of the examples, not which are for validation.",
    "fold": "Folds vary which examples are for training and validation, and overlap in training.",
}


def _mean(found: Spread | None) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.4f}" if found.std is None else f"{found.mean:.4f} ± {found.std:.4f}"


def _gain(found: Gain | None) -> str:
    if found is None:
        return ""
    interval = "" if found.low is None else f" ({found.low:+.4f} to {found.high:+.4f})"
    return f"{found.mean:+.4f}{interval}"
