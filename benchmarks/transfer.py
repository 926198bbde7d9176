"""Measures ways to transfer on real images, and writes docs/results.md's tables of what the runs recorded.

    python -m benchmarks.transfer run pacs --data DATA --weights WEIGHTS --out runs/measured
    python -m benchmarks.transfer table pacs --out runs/measured

DATA holds `images/` as the tests expect it (`JTL_TEST_DATA`), WEIGHTS is the public ViT-Ti/16 (AugReg). Each
condition of a set is one `jtl compare` in OUT/SET/CONDITION, and one `jtl fuse` for each seed and each way to
fuse its runs; what is finished is not repeated.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
LOWER_BLOCKS = "('^embedding','posembed_input','^cls','encoderblock_[0-7]/')"
SMALL = {
    "train.batch_size": "16",
    "train.steps": "60",
    "train.eval_every": "60",
    "train.eval_batch_size": "64",
}


class Fused(NamedTuple):
    """What is made of the runs of one seed: the method of `jtl fuse`, and the variants it takes."""

    method: str
    variants: tuple[str, ...]


class Measured(NamedTuple):
    """One set of runs: `shared` settings, those of each condition, strategy and settings of each variant.

    `config` is the recipe they change. `{data}` in a setting stands for DATA, `{out}` for OUT. `metrics` are
    what the table has, in percent. `by` is the column that decides the comparison ("": its own choice).
    """

    shared: Mapping[str, str]
    conditions: Mapping[str, Mapping[str, str]]
    variants: Mapping[str, tuple[str, str]]
    fused: Mapping[str, Fused] = MappingProxyType({})
    metrics: tuple[str, ...] = ("accuracy",)
    by: str = ""
    config: str = "configs/vit_ft.py:ti16"


FRACTIONS = {f"{percent}": {"data.train_fraction": str(percent / 100)} for percent in (10, 50, 100)}
FINE_TUNING = {
    "plain": ("full", ""),
    "l2_sp": ("l2_sp", "optim.weight_decay=0.0"),
    "bss": ("bss", ""),
    "delta": ("delta", ""),
    "co_tuning": ("co_tuning", ""),
    "bi_tuning": ("bi_tuning", ""),
    "lora": ("lora", "optim.learning_rate=2e-3"),
    "lp_ft": ("lp_ft", ""),
}
HYMENOPTERA = {"data.path": "{data}/images/hymenoptera", "model.image_px": "96", **SMALL}
NEW_RATE = "optim.learning_rate=5e-3"
OTHERS = {
    "probe": ("probe", ""),
    "bitfit": ("bitfit", NEW_RATE),
    "bitfit_norm": ("bitfit", f"strategy.train=norm;{NEW_RATE}"),
    "ia3": ("ia3", NEW_RATE),
    "vpt_shallow": ("vpt", f"model.num_prompts=10;model.has_deep_prompts=False;{NEW_RATE}"),
    "vpt_deep": ("vpt", f"model.num_prompts=10;{NEW_RATE}"),
    # The set hymenoptera comes first.
    "distillation": ("distillation", "strategy.teacher={out}/hymenoptera/100/plain/seed0"),
    "sam_0.01": ("full", "optim.sam_radius=0.01"),
    "sam_0.05": ("full", "optim.sam_radius=0.05"),
    "swa": ("full", "optim.swa_start=0.75"),
    "ema": ("full", "optim.ema=0.95"),
}
IMBALANCE = {
    "plain": ("full", ""),
    "class_balanced": ("full", "train.sampling=class_balanced"),
    "balanced_weights": ("full", "task.class_weights=('balanced',)"),
    "focal": ("full", "task.focal_gamma=2.0;task.label_smoothing=0.0"),
    "logit_adjustment": ("full", "task.logit_adjustment=1.0"),
}
BALANCED_PROBES = {
    name: ("probe", IMBALANCE[name][1]) for name in ("plain", "class_balanced", "balanced_weights")
}
FUSED = {
    "wise": Fused("wise", ("plain",)),
    "soup_uniform": Fused("uniform", tuple(FINE_TUNING)),
    "soup_greedy": Fused("greedy", tuple(FINE_TUNING)),
}
SETS: dict[str, Measured] = {
    "pacs": Measured(
        {
            "data.path": "{data}/images/pacs_40/photo",
            "model.image_px": "112",
            "optim.freeze": LOWER_BLOCKS,
            **{**SMALL, "train.steps": "100", "train.eval_every": "25"},
        },
        {
            domain: {"data.target": f"{{data}}/images/pacs_40/{domain}"}
            for domain in ("art_painting", "cartoon", "sketch")
        },
        {"source_only": ("full", ""), **{name: (name, "") for name in ("dan", "dann", "cdan", "mcc", "mdd")}},
    ),
    "hymenoptera": Measured(
        HYMENOPTERA,
        FRACTIONS,
        FINE_TUNING,
        FUSED,
    ),
    "hymenoptera_others": Measured(
        HYMENOPTERA,
        {percent: FRACTIONS[percent] for percent in ("50",)},
        OTHERS,
    ),
    "pneumoniamnist": Measured(
        {
            "data.name": "arrays",
            "data.path": "{data}/images/pneumoniamnist/pneumoniamnist.npz",
            "model.image_px": "48",
            # What the comparison is by; measured once, at the end.
            "train.monitor": "macro_f1",
            **{**SMALL, "train.batch_size": "32", "train.steps": "120", "train.eval_every": "120"},
        },
        {"100": {}},
        IMBALANCE,
        metrics=("macro_f1", "balanced_accuracy"),
        by="test",
    ),
    "pneumoniamnist_probe": Measured(
        {
            "data.name": "arrays",
            "data.path": "{data}/images/pneumoniamnist/pneumoniamnist.npz",
            "model.image_px": "112",
            "optim.ema": "0.99",
            "train.is_augmented": "False",
            "train.epochs": "20",
            "train.eval_batch_size": "128",
            "train.monitor": "macro_f1",
        },
        {"100": {}},
        BALANCED_PROBES,
        metrics=("macro_f1", "balanced_accuracy"),
        by="test",
        config="configs/vit_probe.py:ti16",
    ),
    "fashion_mnist": Measured(
        {
            "data.name": "arrays",
            "data.path": "{data}/images/fashion_mnist_35k/fashion_mnist_35k.npz",
            "data.val_fraction": "0.02",
            "model.image_px": "48",
            **{**SMALL, "train.batch_size": "32", "train.steps": "200", "train.eval_every": "200"},
            "train.eval_batch_size": "250",
        },
        FRACTIONS,
        FINE_TUNING,
        FUSED,
    ),
}


def commands(name: str, out: Path, *, data: str, weights: str, seeds: int) -> Iterator[list[str]]:
    """Yield the `jtl compare` of every condition, as words."""
    measured = SETS[name]
    places = {"data": data, "out": out}
    for condition, changed in measured.conditions.items():
        settings = {"model.weights": weights, **measured.shared, **changed}
        variants = [
            word
            for label, (strategy, own) in measured.variants.items()
            for word in ("--variant", f"{label}={strategy}{':' if own else ''}{own.format(**places)}")
        ]
        yield [
            *("compare", "--config", measured.config, "--out", str(out / name / condition)),
            *(f"--config.{key}={value.format(**places)}" for key, value in settings.items()),
            *("--seeds", str(seeds), *variants),
            *(("--by", measured.by) if measured.by else ()),
        ]


def fusions(name: str, out: Path, *, seeds: int) -> Iterator[tuple[Path, list[str]]]:
    """Yield folder and words of the `jtl fuse` of every condition and seed."""
    measured = SETS[name]
    for condition, seed in itertools.product(measured.conditions, range(seeds)):
        place = out / name / condition
        for label, fused in measured.fused.items():
            runs = [str(place / variant / f"seed{seed}") for variant in fused.variants]
            folder = place / label / f"seed{seed}"
            words = ["fuse", "--runs", *runs, "--method", fused.method, "--out", str(folder)]
            yield folder, [*words, "--batch-size", measured.shared["train.eval_batch_size"]]


def execute(name: str, out: Path, *, data: str, weights: str, seeds: int) -> None:
    """Train what is not finished yet, one condition after another, then fuse."""
    for words in commands(name, out, data=data, weights=weights, seeds=seeds):
        subprocess.run([sys.executable, "-m", "jtl", *words], check=True)
    for folder, words in fusions(name, out, seeds=seeds):
        if not (folder / "summary.json").is_file():
            subprocess.run([sys.executable, "-m", "jtl", *words], check=True)


def values(summary: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return what a run's summary.json has of the metric, in percent.

    Of a target the last, the selected and the oracle's. Otherwise these runs are measured once, at their end:
    on test or, where the data has none, on validation.
    """
    target = summary.get("target")
    if target:
        return {which: 100 * target[which][metric] for which in ("last", "selected", "oracle")}
    test = summary["best"].get(f"test/{metric}")
    return {"last": 100 * (summary["final"][f"val/{metric}"] if test is None else test)}


def finished(folder: Path, metric: str) -> dict[str, dict[str, float]]:
    """Return the values of a variant's finished runs by the name of their folder, such as "seed0"."""
    summaries = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("seed*/summary.json")}
    return {seed: values(each, metric) for seed, each in summaries.items() if each["status"] == "finished"}


def table(name: str, out: Path) -> str:
    """Return the Markdown table of a set: mean ± standard deviation over seeds, of what has run."""
    measured = SETS[name]
    found = {
        variant: {
            _column(condition, metric, measured): finished(out / name / condition / variant, metric)
            for condition in measured.conditions
            for metric in measured.metrics
        }
        for variant in (*measured.variants, *measured.fused)
    }
    found = {variant: cells for variant, cells in found.items() if any(cells.values())}
    runs = [each for cells in found.values() for cell in cells.values() for each in cell.values()]
    overall = [which for which in ("last", "selected", "oracle") if any("oracle" in each for each in runs)]
    columns = next(iter(found.values()), {})
    header = ["", *columns, *(f"mean, {which}" for which in overall)]
    lines = [header, ["---"] * len(header)]
    for variant, cells in found.items():
        row = [f"`{variant}`", *(_cell([each["last"] for each in runs.values()]) for runs in cells.values())]
        lines.append([*row, *(_cell(over_conditions(cells, which)) for which in overall)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _column(condition: str, metric: str, measured: Measured) -> str:
    """Return what a column is called: its condition, or of several metrics under one condition the metric."""
    if len(measured.metrics) == 1:
        return condition
    return metric if len(measured.conditions) == 1 else f"{condition}, {metric}"


def over_conditions(cells: Mapping[str, Mapping[str, Mapping[str, float]]], which: str) -> list[float]:
    """Return each seed's mean over the conditions, of the seeds that all conditions have."""
    seeds = sorted(set.intersection(*(set(runs) for runs in cells.values())))
    return [statistics.mean(runs[seed][which] for runs in cells.values()) for seed in seeds]


def _cell(found: list[float]) -> str:
    if not found:
        return ""
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread}"


def replace_between(text: str, name: str, body: str) -> str:
    """Return the page's text with another table between the marks of the set.

    >>> replace_between("a <!-- pacs -->x<!-- pacs ends --> b", "pacs", "y")
    'a <!-- pacs -->y<!-- pacs ends --> b'
    """
    begin, end = f"<!-- {name} -->", f"<!-- {name} ends -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    assert tail or rest.endswith(end), f"{RESULTS.name} has no place for {name}"
    return f"{head}{begin}{body}{end}{tail}"


def main() -> None:
    """Run a set, or put its table into docs/results.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("set", choices=tuple(SETS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default=os.environ.get("JTL_TEST_DATA", ""))
    parser.add_argument("--weights", default="")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if args.action == "run":
        execute(args.set, args.out, data=args.data, weights=args.weights, seeds=args.seeds)
        return
    body = table(args.set, args.out)
    sys.stdout.write(body + "\n")
    text = RESULTS.read_text(encoding="utf-8")
    RESULTS.write_text(replace_between(text, args.set, f"\n\n{body}\n\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
