"""The table that people read of a record."""

from collections.abc import Callable, Mapping
from typing import Any

from jtl.memory import text as bytes_text

WIDTH = 18


def text(record: Mapping[str, Any]) -> str:
    """Return the record for people: a line a fact, seconds with their spread."""
    rows = [*_about(record)]
    for name, show in SECTIONS.items():
        if name in record:
            rows += show(record)
    return "".join(f"{name:>{WIDTH}}  {value}\n" for name, value in rows)


def milliseconds(seconds: Mapping[str, Any]) -> str:
    """Return seconds of steps: the median, where 95 of 100 stay below, and the medians of the runs.

    >>> milliseconds({"median": 0.5, "p95": 0.625, "runs": [0.5, 0.51]})
    '500.0 ms (p95 625.0; runs 500.0 to 510.0)'
    """
    low, high = (1e3 * each for each in (min(seconds["runs"]), max(seconds["runs"])))
    return (
        f"{1e3 * seconds['median']:,.1f} ms (p95 {1e3 * seconds['p95']:,.1f}; runs {low:,.1f} to {high:,.1f})"
    )


def _about(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("model", "strategy", "dtype", "batch_size", "device", "cores", "commit")
    rows = [(name.replace("_", " "), str(record[name])) for name in names if record.get(name)]
    versions = record["versions"]
    shown = ", ".join(f"{name} {versions[name]}" for name in ("jax", "torch", "timm") if name in versions)
    rows.append(("versions", shown))
    return rows + [("note", note) for note in record.get("notes", ())]


def _parts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    unit, seconds, loop = record["unit"], record["seconds"], record["loop"]
    rows = [
        ("parameters", "{total:,}, {trainable:,} train".format(**record["parameters"])),
        ("load", f"{seconds['load']:.2f} s"),
        ("compile", f"{seconds['compile']:.2f} s cold, {seconds['compile_cached']:.2f} s from the cache"),
    ]
    for name in ("feed", "step", "loop"):
        part = record[name]
        alone = "" if name == "loop" else " alone"
        rate = f"{part['examples_per_second']:,.1f} {unit}/s"
        rows.append((f"{name}{alone}", f"{milliseconds(part['seconds'])}, {rate}"))
    rows.append(("wait for data", f"{loop['wait_fraction']:.1%} of the loop"))
    rows.append(
        (
            "the loop adds",
            f"{1e3 * loop['added_seconds']:+,.2f} ms a step ({loop['added_fraction']:+.1%}); its own thread "
            f"works {1e3 * loop['host_seconds']:,.2f} ms",
        )
    )
    return rows


def _flops(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    flops = record["flops"]
    return [
        ("FLOPs", f"{flops['step'] / 1e9:,.2f} GFLOP a step, {flops['per_second'] / 1e12:,.3f} TFLOP/s"),
        ("share of peak", f"{flops['share_of_peak']:.1%} of {flops['peak_source']}"),
    ]


def _memory(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    memory = record["memory"]
    compiled = memory["compiled"]
    rows = []
    if compiled:
        shown = {name: bytes_text(compiled[name]) for name in ("total", "arguments", "temporary")}
        rows.append(
            (
                "memory a device",
                "{total} compiled: {arguments} arguments, {temporary} temporary".format(**shown),
            )
        )
    peaks = [("host", memory["host_peak"]), ("device", memory["device_peak"])]
    said = ", ".join(f"{name} {bytes_text(value)}" for name, value in peaks if value)
    return [*rows, ("peak memory", said)] if said else rows


def _sweep(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for row in record["sweep"]:
        name = f"batch {row['batch_size']:,}"
        if "fault" in row:
            rows.append((name, f"not measured: {row['fault']}"))
            continue
        rate = f"{row['examples_per_second']:,.1f} {row['unit']}/s"
        total = f", {bytes_text(row['memory']['total'])}" if row["memory"] else ""
        rows.append((name, f"{rate}, {milliseconds(row['seconds'])}{total}"))
    best = record["best"]
    rows.append(("best", f"batch {best['batch_size']:,}: {best['examples_per_second']:,.1f} a second"))
    return rows


def _against(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for mode, found in record["against"].items():
        rows.append((f"{mode}, jtl", milliseconds(found["jtl"]["seconds"])))
        for name, each in found["torch"].items():
            ratio = "{median:.2f} ({min:.2f} to {max:.2f})".format(**each["ratio"])
            rows.append((name, f"{milliseconds(each['seconds'])}; jtl's speed over its {ratio}"))
        best = found["best"]
        ratio = "{median:.2f} ({min:.2f} to {max:.2f})".format(**best["ratio"])
        rows.append((f"{mode}, ratio", f"{ratio} over {best['name']}, the fastest of PyTorch's"))
    return rows


# By the part of a record that they show, in order.
SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], list[tuple[str, str]]]] = {
    "loop": _parts,
    "flops": _flops,
    "memory": _memory,
    "sweep": _sweep,
    "against": _against,
}
