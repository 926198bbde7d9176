"""Plain-text tables of a run: what trains and what is frozen, the final numbers, and runs side by side."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.metrics import Summary

MAX_CLASSES = 20
WORST_CLASSES = 10
MIN_NAME_WIDTH = 12
FALLBACK_WIDTH = 100
# Of a table whose names stay whole, whatever the terminal.
WHOLE = 10_000
COUNT = "count"


class FreezeRow(NamedTuple):
    """One group of parameters and how it trains.

    `num_trainable` of its `num_params` scalars ever train, from `start_step` on, at `multipliers` (lowest and
    highest of its leaves) times the learning rate, with at most `weight_decay`. `batch_stats` says what the
    running statistics of its BatchNorm do: "frozen", "adapting", or "" where it has none.
    """

    name: str
    num_params: int
    num_bytes: int
    num_trainable: int
    multipliers: tuple[float, float] = (0.0, 0.0)
    weight_decay: float = 0.0
    start_step: int = 0
    batch_stats: str = ""


def freeze_table(rows: Sequence[FreezeRow], width: int | None = None) -> str:
    """Return the table of groups with their totals; start and BatchNorm only where a group has them.

    >>> print(freeze_table([FreezeRow("block0", 2_000_000, 8_000_000, 0),
    ...                     FreezeRow("head", 1_000, 4_000, 1_000, (10.0, 10.0), 0.05)]))
    group   parameters   MB  state             rate x  decay
    block0   2,000,000  8.0  frozen
    head         1,000  0.0  trainable             10   0.05
    total    2,001,000  8.0  0.05 % trainable
    """
    header = ["group", "parameters", "MB", "state", "rate x", "decay", "from step", "BatchNorm"]
    body = [
        [
            row.name,
            f"{row.num_params:,}",
            _megabytes(row.num_bytes),
            _state(row.num_trainable, row.num_params),
            _span(row.multipliers) if row.num_trainable else "",
            f"{row.weight_decay:g}" if row.num_trainable else "",
            f"{row.start_step:,}" if row.num_trainable else "",
            row.batch_stats,
        ]
        for row in rows
    ]
    num_params = sum(row.num_params for row in rows)
    num_trainable = sum(row.num_trainable for row in rows)
    share = _state(num_trainable, num_params)
    total = [
        "total",
        f"{num_params:,}",
        _megabytes(sum(row.num_bytes for row in rows)),
        share,
        "",
        "",
        "",
        "",
    ]
    shown = [0, 1, 2, 3, 4, 5]
    shown += [6] if any(row.start_step for row in rows) else []
    shown += [7] if any(row.batch_stats for row in rows) else []
    lines = [[line[column] for column in shown] for line in (header, *body, total)]
    return aligned(lines, left=(0, 3, shown.index(7) if 7 in shown else 0), width=width)


def final_table(
    found: Summary,
    label_names: Sequence[str],
    width: int | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Return the numbers of one evaluation, and a row a class: all of up to 20, or the worst 10 of more.

    The first of the task's numbers per class decides which are worst; classes without examples are counted.
    `intervals` are low and high of some numbers, and stand behind them.
    """
    known = intervals or {}
    scalars = aligned(
        [[name, f"{value:.4f}", *_bounds(name, known)] for name, value in found.scalars.items()],
        left=(0, 2),
        width=width,
    )
    columns = list(found.per_class)
    num_classes = len(found.per_class[columns[0]]) if columns else 0
    if num_classes == 0:
        return scalars
    names = label_names or [f"target {index}" for index in range(num_classes)]
    order, note = _chosen(found.per_class, num_classes)
    rows = [[names[index], *(_cell(found.per_class[column][index]) for column in columns)] for index in order]
    table = aligned(
        [["class", *(column.replace("_", " ") for column in columns)], *rows], left=(0,), width=width
    )
    return "\n".join([scalars, "", table, *([note] if note else [])])


def comparison(results: Mapping[str, Mapping[str, Any]], width: int | None = None) -> str:
    """Return the best metrics of several runs (what their summary.json holds) as a column each."""
    names = list(dict.fromkeys(name for result in results.values() for name in result["best"]))
    rows = [[name, *(_metric(result["best"].get(name)) for result in results.values())] for name in names]
    rows.append(["steps", *(f"{result['steps']:,}" for result in results.values())])
    rows.append(["examples/s", *(f"{result['examples_per_second']:,.0f}" for result in results.values())])
    return aligned([["", *results], *rows], left=(0,), width=width)


def aligned(rows: Sequence[Sequence[str]], *, left: Sequence[int], width: int | None = None) -> str:
    """Return rows of equal length as text; columns in `left` start flush, the others end flush.

    The first column gives way, by an ellipsis inside its text, where a row would be wider than the terminal.

    >>> print(aligned([["encoder/block11/attention", "1"], ["head", "20"]], left=(0,), width=20))
    encoder/…tention   1
    head              20
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    limit = (terminal_width() if width is None else width) - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(limit, MIN_NAME_WIDTH))
    lines = []
    for row in rows:
        cells = [_shortened(row[0], widths[0]), *row[1:]]
        padded = [
            cell.ljust(size) if column in left else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def terminal_width() -> int:
    """Return the columns of the terminal behind stderr, or 100 where it is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or FALLBACK_WIDTH
    except (OSError, ValueError):
        return FALLBACK_WIDTH


def _shortened(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    head = size // 2
    return f"{text[:head]}…{text[len(text) - (size - head - 1) :]}"


def _chosen(per_class: Mapping[str, np.ndarray], num_classes: int) -> tuple[list[int], str]:
    """Return the classes to show, and the sentence about the others."""
    if num_classes <= MAX_CLASSES:
        return list(range(num_classes)), ""
    decisive = next(column for column in per_class if column != COUNT)
    values = np.asarray(per_class[decisive], np.float64)
    present = np.flatnonzero(~np.isnan(values))
    order = present[np.argsort(values[present], kind="stable")][:WORST_CLASSES]
    absent = num_classes - len(present)
    note = f"the {len(order)} worst of {num_classes:,} classes by {decisive.replace('_', ' ')}"
    return order.tolist(), f"{note}; {absent:,} without examples" if absent else note


def _state(num_trainable: int, num_params: int) -> str:
    if num_trainable == 0:
        return "frozen"
    if num_trainable == num_params:
        return "trainable"
    return f"{100 * num_trainable / num_params:.3g} % trainable"


def _bounds(name: str, intervals: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the cell of a number's interval, none where no number has one."""
    if not intervals:
        return []
    low, high = intervals.get(name, (math.nan, math.nan))
    return ["" if math.isnan(low) else f"{low:.4f} to {high:.4f}"]


def _span(values: tuple[float, float]) -> str:
    low, high = values
    return f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g} to {high:.3g}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f}"


def _cell(value: Any) -> str:
    if np.issubdtype(np.asarray(value).dtype, np.integer):
        return f"{int(value):,}"
    return "-" if math.isnan(value) else f"{float(value):.4f}"


def _metric(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
