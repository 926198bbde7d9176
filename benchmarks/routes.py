"""Fine-tunes by each route of the images, over several seeds: whichever is taken, a model gets as good.

    python -m benchmarks.routes --weights MODEL --data FOLDER [--image-px 112] [--steps 60] [--seeds 3]

FOLDER has `train/` and `val/`. Each run is a process of its own; `stream` reads files, `cache` images that
are kept decoded and shrunk, `device` varies them inside XLA; the first two resize crops by Pillow. Prints a
table, and writes the record to OUT (`--out`).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROUTES = ("stream", "cache", "device")


def main() -> None:
    """Run all, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-px", type=int, default=112)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {route: [] for route in ROUTES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for route in ROUTES:
                rows[route].append(_run(args, Path(folder), route, seed))
                found = rows[route][-1]
                sys.stderr.write(f"{route}, seed {seed}: {found['accuracy']:.1%}\n")
    record = {
        "command": " ".join(sys.argv[1:]),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "versions": {name: metadata.version(name) for name in ("jax", "numpy", "pillow")},
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(table(rows)) + "\n")


def table(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the table: a row a route, in points of accuracy.

    >>> table({"stream": [{"accuracy": 0.9, "loss": 0.5}, {"accuracy": 0.92, "loss": 0.3}]})[-1]
    '| `stream` | 91.0 ± 1.4 | 90.0, 92.0 | 0.400 |'
    """
    lines = ["| route | validation accuracy, mean ± deviation | by seed | loss |", "|---|---|---|---|"]
    for route, found in rows.items():
        values = [100 * each["accuracy"] for each in found]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        by_seed = ", ".join(f"{value:.1f}" for value in values)
        loss = statistics.mean(each["loss"] for each in found)
        lines.append(f"| `{route}` | {statistics.mean(values):.1f}{spread} | {by_seed} | {loss:.3f} |")
    return lines


def _run(args: argparse.Namespace, folder: Path, route: str, seed: int) -> dict[str, Any]:
    settings = {
        "data.path": args.data,
        "model.image_px": args.image_px,
        "inputs.route": route,
        "train.steps": args.steps,
        "train.batch_size": args.batch_size,
        "train.eval_every": args.steps,
        "train.eval_batch_size": 51,
        "train.seed": seed,
    }
    workdir = folder / f"{route}-{seed}"
    command = [sys.executable, "-m", "jtl.main", "--config", f"configs/ft.py:{args.weights}"]
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        [*command, *overrides, "--workdir", str(workdir)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "JTL_CACHE": str(folder / "cache")},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    final = found["final"]
    about = {"data_wait_fraction": found["data_wait_fraction"], "seconds": found["seconds"]}
    return {"accuracy": final["val/accuracy"], "loss": final["val/loss"], **about}


if __name__ == "__main__":
    main()
