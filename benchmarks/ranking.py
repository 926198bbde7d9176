"""Measures how well `jtl rank` foretells fine-tuning: a few weights on a few small sets, three seeds each.

    python -m benchmarks.ranking run --data DATA --out runs/ranking     # goes on where it was stopped
    python -m benchmarks.ranking table

DATA holds `images/` and `weights/` as the tests expect them (`JTL_TEST_DATA`). Of every set a few hundred
training images are drawn, the same for all; each of the weights is ranked on them by `jtl rank` and
fine-tuned on them by the recipe of `jtl train`. `run` leaves benchmarks/records/ranking.json of what is there
so far, `table` puts its tables into docs/choose.md.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import weightedtau

from benchmarks.transfer import replace_between
from jtl import files, runtime

ROOT = Path(__file__).parents[1]
RECORD, PAGE = ROOT / "benchmarks" / "records" / "ranking.json", ROOT / "docs" / "choose.md"
MARK = "ranking"
EPOCHS, SEEDS, IMAGE_PX = 3.0, (0, 1, 2), 96
SETTINGS = (("train.batch_size", "16"), ("train.eval_batch_size", "64"), ("train.eval_every", "1000000"))
# How far behind the best a recommendation may be, in points.
NEAR = 1.0
MOBILE = (
    ("model.padding", "same"),
    ("preprocess.mean", "(0.5,0.5,0.5)"),
    ("preprocess.std", "(0.5,0.5,0.5)"),
)
SMALLER = (("model.image_px", str(IMAGE_PX)),)


class Weights(NamedTuple):
    """Weights below DATA/weights, and the settings that are theirs."""

    path: str
    settings: tuple[tuple[str, str], ...] = ()


WEIGHTS: dict[str, Weights] = {
    "ViT-Ti/16, AugReg": Weights(
        "vit_tiny_patch16_224_augreg/vit_tiny_patch16_224.safetensors",
        SMALLER,
    ),
    "MobileNetV2, ImageNet": Weights("mobilenet_v2/mobilenet_v2_imagenet.safetensors", (*MOBILE, *SMALLER)),
    "MobileNetV2, insects": Weights("mobilenet_v2/mobilenet_v2_insect.safetensors", (*MOBILE, *SMALLER)),
    "MobileNetV2, birds": Weights("mobilenet_v2/mobilenet_v2_bird.safetensors", (*MOBILE, *SMALLER)),
    "ResNet-20, CIFAR-10": Weights("cifar10_resnets/resnet20-12fca82f.th"),
    "ResNet-56, CIFAR-10": Weights("cifar10_resnets/resnet56-4bfd9763.th"),
}


class Images(NamedTuple):
    """A set below DATA/images: `draw(path, out)` → the table or archive of training and validation images."""

    path: str
    draw: Callable[[Path, Path], Path]


def _of_folder(num_train: int, num_val: int) -> Callable[[Path, Path], Path]:
    """Draw so many images of each class of a folder; of one that is split all validation images are taken."""

    def draw(path: Path, out: Path) -> Path:
        rows = []
        is_split = (path / "train").is_dir()
        for folder in sorted(each for each in (path / "train" if is_split else path).iterdir()):
            names = sorted(folder.iterdir())
            order = np.random.default_rng(0).permutation(len(names))[: num_train + num_val]
            train, val = order[:num_train], order[num_train:]
            rows += [(names[place], folder.name, "train") for place in train]
            rest = (
                sorted((path / "val" / folder.name).iterdir()) if is_split else [names[each] for each in val]
            )
            rows += [(name, folder.name, "val") for name in rest]
        with (out / "images.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label", "split"), *rows])
        return out / "images.csv"

    return draw


def _of_archive(num_train: int, num_val: int, keys: tuple[str, str]) -> Callable[[Path, Path], Path]:
    """Draw so many training images of each class of an archive, and others of them to validate on."""

    def draw(path: Path, out: Path) -> Path:
        with np.load(path) as archive:
            images, labels = archive[keys[0]], archive[keys[1]].reshape(-1)
        rng = np.random.default_rng(0)
        drawn = [
            rng.permutation(np.flatnonzero(labels == each))[: num_train + num_val]
            for each in np.unique(labels)
        ]
        parts = {"train": np.concatenate([each[:num_train] for each in drawn])}
        parts["val"] = np.concatenate([each[num_train:] for each in drawn])
        arrays = {f"{split}_images": images[rows] for split, rows in parts.items()}
        arrays |= {f"{split}_labels": labels[rows] for split, rows in parts.items()}
        np.savez(out / "images.npz", **arrays)
        return out / "images.npz"

    return draw


SETS: dict[str, Images] = {
    "hymenoptera": Images("hymenoptera", _of_folder(80, 0)),
    "PACS sketch": Images("pacs_40/sketch", _of_folder(22, 18)),
    "CIFAR-10": Images("cifar10_test_1000", _of_folder(16, 30)),
    "Fashion-MNIST": Images(
        "fashion_mnist_35k/fashion_mnist_35k.npz", _of_archive(16, 30, ("x_train", "y_train"))
    ),
    "PneumoniaMNIST": Images(
        "pneumoniamnist/pneumoniamnist.npz", _of_archive(80, 150, ("train_images", "train_labels"))
    ),
}


def execute(data: Path, out: Path) -> None:
    """Rank and fine-tune what is not finished, one set after another, and write the record after each."""
    ranks: dict[str, Any] = {}
    for name in SETS:
        ranks[name] = _ranked(name, data, out)
        for label, seed in itertools.product(WEIGHTS, SEEDS):
            _fine_tuned(name, label, seed, data, out)
        _write(out, ranks)


def _folder(out: Path, *names: str) -> Path:
    kept = ("".join(each if each.isalnum() else "_" for each in name) for name in names)
    return out.joinpath(*kept)


def _drawn(name: str, data: Path, out: Path) -> Path:
    folder = _folder(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    return SETS[name].draw(data / "images" / SETS[name].path, folder)


def _ranked(name: str, data: Path, out: Path) -> dict[str, Any]:
    """Return what `jtl rank` says of the training images of a set, by weights and score."""
    from jtl.ranking import NEIGHBOURS, PROBE
    from jtl.verbs.rank import rank

    kept = _folder(out, name) / "ranked.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    specs = {f"{data / 'weights' / each.path}": label for label, each in WEIGHTS.items()}
    words = [
        f"{data / 'weights' / each.path}:{';'.join(f'{key}={value}' for key, value in each.settings)}".rstrip(
            ":"
        )
        for each in WEIGHTS.values()
    ]
    began = time.process_time()
    found = rank.run(data=str(_drawn(name, data, out)), weights=words, estimates=False)
    scores = {
        specs[each["weights"]]: {
            PROBE: each[PROBE]["value"],
            NEIGHBOURS: each[NEIGHBOURS]["value"],
            **each["scores"],
        }
        for each in found["candidates"]
    }
    result = {
        "num_examples": found["num_examples"],
        "recommended": specs[found["recommended"]],
        "scores": scores,
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    files.replace_text(kept, json.dumps(result, indent=1) + "\n")
    return result


def _fine_tuned(name: str, label: str, seed: int, data: Path, out: Path) -> None:
    """Fine-tune weights on a set, or go on with it; a finished run is not repeated."""
    import jax

    from jtl.training import config, recipe
    from jtl.training import run as train

    folder = _folder(out, name, label, f"seed{seed}")
    if (folder / "summary.json").exists() and _accuracy(folder) is not None:
        return
    own = WEIGHTS[label]
    began = time.process_time()
    values = recipe.values("full", str(data / "weights" / own.path), EPOCHS)
    values = {**values, "data": {"path": str(_drawn(name, data, out))}}
    train.run(config.of_values(values, [*SETTINGS, *own.settings, ("train.seed", str(seed))], folder), folder)
    files.replace_text(folder / "cpu_seconds", f"{time.process_time() - began:.1f}\n")
    # Else every run's programs stay in memory.
    jax.clear_caches()


def _accuracy(folder: Path) -> float | None:
    """Return the accuracy of a finished run's last step on validation, None where it is not finished."""
    path = folder / "summary.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"status": ""}
    return found["final"]["val/accuracy"] if found["status"] == "finished" else None


def _write(out: Path, ranks: Mapping[str, Any]) -> None:
    from jtl.verbs.bench import record

    accuracies = {
        name: {
            label: [
                found
                for seed in SEEDS
                if (found := _accuracy(_folder(out, name, label, f"seed{seed}"))) is not None
            ]
            for label in WEIGHTS
        }
        for name in ranks
    }
    spent = [float(path.read_text()) for path in out.glob("*/*/seed*/cpu_seconds")]
    spent += [each["cpu_seconds"] for each in ranks.values()]
    result = {
        **record.surroundings(),
        "epochs": EPOCHS,
        "image_px": IMAGE_PX,
        "cpu_seconds": round(sum(spent), 1),
        "ranks": ranks,
        "accuracy": accuracies,
    }
    files.replace_text(RECORD, json.dumps(result, indent=1) + "\n")


def agreement(scores: Sequence[float | None], accuracies: Sequence[float]) -> float | None:
    """Return Kendall's tau with the weights of Vigna (2015, eq. 7), None where a score has no value.

    >>> agreement([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]), agreement([None, 1.0], [0.1, 0.2])
    (1.0, None)
    """
    if any(each is None for each in scores) or len(set(scores)) < 2:
        return None
    return round(float(weightedtau(scores, accuracies).statistic), 6)


def regret(scores: Sequence[float | None], accuracies: Sequence[float]) -> float | None:
    """Return how many points the first that has the highest score is behind the best.

    >>> regret([0.3, 0.2], [0.5, 0.75])
    25.0
    """
    known = [
        (score, accuracy) for score, accuracy in zip(scores, accuracies, strict=True) if score is not None
    ]
    if not known:
        return None
    return 100 * (max(accuracies) - max(known, key=lambda each: each[0])[1])


def tables(record: Mapping[str, Any]) -> str:
    """Return the Markdown tables: accuracies, and of each score its agreement and what it loses."""
    sets = {name: each for name, each in record["accuracy"].items() if all(each.values())}
    means = {
        name: {label: statistics.mean(runs) for label, runs in each.items()} for name, each in sets.items()
    }
    rows = [["fine-tuned, %", *sets], ["---"] * (len(sets) + 1)]
    for label in WEIGHTS:
        rows.append([label, *(_cell(record, name, label) for name in sets)])
    scores = next(iter(next(iter(record["ranks"].values()))["scores"].values()))
    header = [
        "score",
        *(f"τ, {name}" for name in sets),
        "τ, mean",
        "points lost: mean",
        f"within {NEAR:g} point",
    ]
    second = [header, ["---"] * len(header)]
    for score in scores:
        pairs = []
        for name in sets:
            values = [record["ranks"][name]["scores"][label][score] for label in WEIGHTS]
            pairs.append((values, [means[name][label] for label in WEIGHTS]))
        taus = [agreement(*pair) for pair in pairs]
        lost = [found for pair in pairs if (found := regret(*pair)) is not None]
        known = [tau for tau in taus if tau is not None]
        second.append(
            [
                f"`{score}`",
                *("-" if tau is None else f"{tau:.2f}" for tau in taus),
                f"{statistics.mean(known):.2f}" if known else "-",
                f"{statistics.mean(lost):.1f}" if lost else "-",
                f"{sum(each <= NEAR + 1e-9 for each in lost)} of {len(lost)}" if lost else "-",
            ]
        )
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in part) for part in (rows, second))


def _cell(record: Mapping[str, Any], name: str, label: str) -> str:
    """Return mean ± standard deviation of the runs, in bold where the weights are the recommended ones."""
    runs = [100 * each for each in record["accuracy"][name][label]]
    spread = f" ± {statistics.stdev(runs):.1f}" if len(runs) > 1 else ""
    text = f"{statistics.mean(runs):.1f}{spread}"
    return f"**{text}**" if record["ranks"][name]["recommended"] == label else text


def main() -> None:
    """Measure, or put the tables of the record into docs/choose.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("JTL_TEST_DATA", "")))
    parser.add_argument("--out", type=Path, default=Path("runs/ranking"))
    args = parser.parse_args()
    if args.action == "run":
        runtime.prepare()
        execute(args.data, args.out)
        return
    body = tables(json.loads(RECORD.read_text(encoding="utf-8")))
    sys.stdout.write(body + "\n")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replace_between(page, MARK, f"\n\n{body}\n\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
