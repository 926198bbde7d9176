"""Times a probe from JPEG files to its accuracy: frozen layers once, against PyTorch at every step.

    python -m benchmarks.probe --weights MODEL.safetensors --data FOLDER --torch PYTHON [--epochs 10]

MODEL is timm's ViT-Ti/16 at 224 px, FOLDER has `train/` and `val/`, PYTHON an interpreter with torch, timm
and safetensors. Each run is a process of its own, timed from its start to its end, everything in it: imports,
compilation, reading, checkpoints and report. jtl begins with an empty cache, and again with what that left.
Prints a table and writes the record to OUT (`--out`).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "strategy.name": "probe",
    "task.label_smoothing": "0",
    "optim.learning_rate": "5e-3",
    "optim.weight_decay": "0",
    "optim.layer_decay": "1",
    "train.batch_size": "32",
    "train.eval_batch_size": "64",
    "train.is_augmented": "False",
}


def main() -> None:
    """Run both, alternating, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--torch", required=True, metavar="PYTHON")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {"torch": [], "jtl": [], "jtl, again": []}
    for _ in range(args.runs):
        rows["torch"].append(_by_torch(args))
        with tempfile.TemporaryDirectory() as folder:
            rows["jtl"].append(_by_jtl(args, Path(folder), "first"))
            rows["jtl, again"].append(_by_jtl(args, Path(folder), "again"))
    record = {
        "command": " ".join(sys.argv[1:]),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=2), encoding="utf-8")
    reference = statistics.median(row["seconds"] for row in rows["torch"])
    for name, found in rows.items():
        seconds = [row["seconds"] for row in found]
        line = f"{name}: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"
        ratio = reference / statistics.median(seconds)
        accuracy = ", ".join(f"{row['accuracy']:.1%}" for row in found)
        sys.stdout.write(f"{line}, {ratio:.2f} x, validation accuracy {accuracy}\n")


def _by_torch(args: argparse.Namespace) -> dict[str, Any]:
    command = [args.torch, str(ROOT / "benchmarks" / "probe_torch.py"), "--epochs", str(args.epochs)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--weights", args.weights, "--data", args.data],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {**json.loads(done.stdout), "seconds": time.perf_counter() - began}


def _by_jtl(args: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    settings = {**SETTINGS, "train.epochs": str(args.epochs), "data.path": args.data}
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "jtl.main", "--config", f"configs/ft.py:{args.weights}"]
    environment = {**os.environ, "JTL_CACHE": str(folder / "cache")}
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *overrides, "--workdir", str(folder / name)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))
    return {"accuracy": found["best"]["val/accuracy"], "phases": found["seconds"], "seconds": seconds}


if __name__ == "__main__":
    main()
