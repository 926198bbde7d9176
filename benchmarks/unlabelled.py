"""Measures what examples without labels add to a few labelled ones of Fashion-MNIST.

    python -m benchmarks.unlabelled run --data DATA --weights WEIGHTS --out runs/unlabelled
    python -m benchmarks.unlabelled table --out runs/unlabelled

DATA holds `images/` as the tests expect it (`JTL_TEST_DATA`), WEIGHTS is the public ViT-Ti/16 (AugReg). Every
run has the same steps and, of a seed, the same labelled images; `supervised` has none but these, varied as
the weak view is, `supervised_strong` varied as the strong one. What is finished is not repeated; `table`
writes benchmarks/records/unlabelled.json and the table of docs/unlabelled.md.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.transfer import replace_between
from jtl.training import config, meta
from jtl.training import run as train

ROOT = Path(__file__).parents[1]
PAGE, RECORD = ROOT / "docs" / "unlabelled.md", ROOT / "benchmarks" / "records" / "unlabelled.json"
SET = "images/fashion_mnist_35k/fashion_mnist_35k.npz"
NUM_UNLABELLED, NUM_TEST, NUM_CLASSES = 6_000, 1_000, 10
PER_CLASS, SEEDS = (4, 25), (0, 1, 2)
LOWER_BLOCKS = ("^embedding", "posembed_input", "^cls", "encoderblock_[0-7]/")
STRONG = {"augment.policy": "randaugment", "augment.policy_magnitude": "5", "augment.erase_probability": "1"}
SEMI = {"strategy.times": "4"}
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "supervised": {"strategy.name": "full"},
    "supervised_strong": {"strategy.name": "full", **STRONG},
    "fix_match": {"strategy.name": "fix_match", **SEMI},
}
SETTINGS: dict[str, Any] = {
    "model": {"name": "vit", "size": "ti16", "image_px": 32},
    "data": {"name": "arrays", "val_fraction": 0.0},
    "augment": {"crop_scale": (0.7, 1.0)},
    "optim": {"learning_rate": 5e-4, "weight_decay": 0.05, "layer_decay": 0.75, "ema": 0.95},
    "train": {
        "steps": 150,
        "batch_size": 8,
        "eval_batch_size": 250,
        "checkpoint_every": 50,
        "eval_every": 150,
    },
}


def drawn(path: Path, out: Path, per_class: int, seed: int) -> Path:
    """Write the labelled images of a seed, those without labels and those to measure on; return the file."""
    found = out / "data" / f"{per_class}-seed{seed}.npz"
    if found.is_file():
        return found
    whole = np.load(path)
    random, labels = np.random.default_rng(seed), whole["y_train"]
    of_class = (random.permutation(np.flatnonzero(labels == label)) for label in range(NUM_CLASSES))
    rows = np.concatenate([each[:per_class] for each in of_class])
    others = np.random.default_rng(0).permutation(len(labels))[:NUM_UNLABELLED]
    found.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        found,
        x_train=whole["x_train"][rows],
        y_train=labels[rows],
        x_test=whole["x_test"][:NUM_TEST],
        y_test=whole["y_test"][:NUM_TEST],
        x_unlabelled=whole["x_train"][others],
    )
    return found


def execute(out: Path, *, data: Path, weights: str) -> None:
    """Make every run that is not finished, seed by seed."""
    for seed, per_class, (label, own) in itertools.product(SEEDS, PER_CLASS, VARIANTS.items()):
        file = drawn(data / SET, out, per_class, seed)
        given = {**own, "model.weights": weights, "data.path": str(file), "train.seed": str(seed)}
        if "strategy.times" in own:
            given["data.unlabelled"] = str(file)
        settings = config.with_overrides(config.from_dict(SETTINGS), list(given.items()))
        train.run(settings, folder_of(out, label, per_class, seed))


def folder_of(out: Path, label: str, per_class: int, seed: int) -> Path:
    """Return the run folder of a variant on the labelled images of a seed."""
    return out / label / f"{per_class}-seed{seed}"


def collected(out: Path) -> dict[str, Any]:
    """Return the test accuracy in percent of every finished run, by variant and labels a class."""
    found: dict[str, dict[str, list[float]]] = {}
    for label, per_class, seed in itertools.product(VARIANTS, PER_CLASS, SEEDS):
        path = folder_of(out, label, per_class, seed) / "summary.json"
        if path.is_file() and json.loads(path.read_text())["status"] == "finished":
            accuracy = json.loads(path.read_text())["best"]["test/accuracy"]
            found.setdefault(label, {}).setdefault(str(per_class), []).append(round(100 * accuracy, 2))
    return {
        "set": "Fashion-MNIST",
        "unlabelled": NUM_UNLABELLED,
        "test": NUM_TEST,
        "settings": SETTINGS,
        "variants": {label: dict(own) for label, own in VARIANTS.items()},
        **meta.machine(),
        "accuracy": found,
    }


def table(record: Mapping[str, Any]) -> str:
    """Return the Markdown table of a record: mean ± standard deviation over seeds."""
    header = ["", *(f"{count} a class" for count in PER_CLASS)]
    lines = [header, ["---"] * len(header)]
    for label, columns in record["accuracy"].items():
        lines.append([f"`{label}`", *(_cell(columns.get(str(count), [])) for count in PER_CLASS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(found: list[float]) -> str:
    if not found:
        return ""
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    short = "" if len(found) == len(SEEDS) else f" ({len(found)} of {len(SEEDS)} seeds)"
    return f"{statistics.mean(found):.1f}{spread}{short}"


def main() -> None:
    """Make the runs, or write their record and table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("JTL_TEST_DATA", "")))
    parser.add_argument("--weights", default="")
    args = parser.parse_args()
    if args.action == "run":
        execute(args.out, data=args.data, weights=args.weights)
        return
    record = collected(args.out)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    body = table(record)
    sys.stdout.write(body + "\n")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replace_between(text, "fashion_mnist", f"\n\n{body}\n\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
