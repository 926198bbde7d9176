"""What memory training takes as the set grows: an epoch over 1,000 to 100,000 small JPEG files.

    python -m benchmarks.memory [--sizes 1000,10000,100000] [--route stream] [--store-bytes 17179869184]

Files are written for it, 48 x 40 px, in two folders. The memory is what the kernel has in use for the process
at most, looked at ten times a second: in all, and without what it maps from files, which it gives up for
others. Prints a table, and writes the record to OUT (`--out`).
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
NUM_PATTERNS = 64
# Beside their reading, steps take next to no time.
TINY = {
    "model.weights": "none",
    "model.size": "mini",
    "model.image_px": 32,
    "model.patch_px": 16,
    "model.dim": 16,
    "model.depth": 1,
    "model.heads": 2,
    "model.mlp_dim": 16,
    "data.val_fraction": 0.01,
    "train.batch_size": 100,
    "train.eval_batch_size": 100,
    "sharding.devices": 1,
}


def main() -> None:
    """Run all sizes, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--route", default="stream", choices=("stream", "cache"))
    parser.add_argument("--store-bytes", type=int, default=16 << 30)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, args.sizes.split(",")):
            data = Path(folder) / f"data-{size}"
            write(data, size)
            rows.append({"records": size, **_run(args, data, Path(folder) / f"run-{size}")})
            sys.stderr.write(f"{rows[-1]}\n")
    if args.out:
        args.out.write_text(
            json.dumps({"route": args.route, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )
    sys.stdout.write("\n".join(table(args.route, rows)) + "\n")


def table(route: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return the table: a row a size, its memory also beside that of the first.

    >>> row = {"records": 10, "peak_bytes": 2**30, "own_bytes": 2**29, "epoch_seconds": 1.0, "seconds": 9.0}
    >>> table("stream", [row])[-1]
    '| `stream` | 10 | 1024 MiB | 512 MiB (+0.0 %) | 1.0 s | 9.0 s |'
    """
    lines = ["| route | records | memory | of its own | an epoch | in all |", "|---|---|---|---|---|---|"]
    for row in rows:
        peak, own = (f"{row[name] / 2**20:.0f} MiB" for name in ("peak_bytes", "own_bytes"))
        grown = 100 * (row["own_bytes"] / rows[0]["own_bytes"] - 1)
        spent = f"{row['epoch_seconds']:.1f} s | {row['seconds']:.1f} s"
        lines.append(f"| `{route}` | {row['records']:,} | {peak} | {own} ({grown:+.1f} %) | {spent} |")
    return lines


def write(folder: Path, size: int) -> None:
    """Write so many different JPEG files of two classes: noise that is shifted, in one of few patterns."""
    drawn = np.random.default_rng(0)
    patterns = drawn.integers(0, 256, (NUM_PATTERNS, 5, 6, 3)).astype(np.uint8)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for index in range(size):
        pixels = patterns[index % NUM_PATTERNS].repeat(8, axis=0).repeat(8, axis=1)
        # Its number, so that no two files are the same.
        pixels[:4, :32, 0] = 255 * ((index >> np.arange(32)) & 1).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        (folder / "ab"[index % 2] / f"{index:06d}.jpg").write_bytes(buffer.getvalue())


def _run(args: argparse.Namespace, data: Path, workdir: Path) -> dict[str, Any]:
    settings = {**TINY, "data.path": data, "inputs.route": args.route, "inputs.store_bytes": args.store_bytes}
    # A second epoch is what reads from the cache.
    settings["train.epochs"] = 2 if args.route == "cache" else 1
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "jtl.main", "--config", "configs/vit_ft.py:ti16"]
    began = time.perf_counter()
    with (workdir.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *overrides, "--workdir", str(workdir)],
            stderr=log,
            stdout=log,
            cwd=ROOT,
            env={**os.environ, "JTL_CACHE": str(workdir.parent / "cache")},
        )
        peaks = _watched(process)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError((workdir.parent / "log").read_text(encoding="utf-8"))
    found = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))["seconds"]
    epoch = (found["step"] + found["data_wait"]) / settings["train.epochs"]
    return {**peaks, "epoch_seconds": epoch, "seconds": seconds}


def _watched(process: "subprocess.Popen[bytes]") -> dict[str, int]:
    """Return the most memory of a process until its end: in all, and what is no file's."""
    peaks = {"peak_bytes": 0, "own_bytes": 0}
    names = {"VmRSS": "peak_bytes", "RssAnon": "own_bytes"}
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            break
        for line in status.splitlines():
            field, _, value = line.partition(":")
            if field in names:
                peaks[names[field]] = max(peaks[names[field]], int(value.split()[0]) << 10)
        time.sleep(0.1)
    process.wait()
    return peaks


if __name__ == "__main__":
    main()
