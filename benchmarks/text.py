"""Fine-tunes a text encoder by jtl and by PyTorch with transformers: one recipe, the same batches.

    python -m benchmarks.text --weights WEIGHTS --data DATA --out runs/text [--config.SECTION.NAME=VALUE …]

WEIGHTS is a folder with a BERT in Hugging Face's form, DATA what `jtl train` takes, with a validation split
of its own. The recipe is that of configs/ft.py, the process one. Both frameworks see the batches that jtl's
plan gives, in its order, padded to its buckets; both begin with a head of zeros. Prints
validation accuracy, and seconds a step without compilation and evaluation, over `--seeds`; writes the record
to OUT/record.json. Needs torch and transformers (extra `bench`).
"""

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import statistics
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from jtl import cli, runtime
from jtl.data import pipeline
from jtl.training import build, config, evaluate, optim, sharding
from jtl.training import run as train

PACKAGES = ("jax", "flax", "optax", "torch", "transformers")


def main() -> None:
    """Train with every seed by both, alternating, and print what came out."""
    words, overrides = cli.split_overrides(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(words)
    runtime.prepare()
    torch.set_num_threads(pipeline.num_cores())
    rows = []
    for seed in range(args.seeds):
        chosen = [*overrides, ("data.path", args.data), ("train.seed", str(seed))]
        settings = config.read(f"configs/ft.py:{args.weights}", chosen)
        ours = _by_jtl(settings, args.out / f"seed{seed}")
        theirs = _by_torch(settings, args.weights)
        rows.append({"seed": seed, "jtl": ours, "torch": theirs})
        sys.stderr.write(f"{json.dumps(rows[-1])}\n")
    record = {
        "rows": rows,
        "overrides": overrides,
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    (args.out / "record.json").write_text(json.dumps(record, indent=1))
    sys.stdout.write(_table(rows))


def _by_jtl(settings: config.Config, folder: Path) -> dict[str, float]:
    found = train.run(settings, folder)
    seconds = found["seconds"]
    spent = seconds["step"] + seconds["data_wait"]
    return {"accuracy": found["final"]["val/accuracy"], "step_seconds": spent / found["steps"]}


class _Classifier(nn.Module):
    """transformers' encoder, the mean of its last layer over real tokens, and a linear head of zeros."""

    def __init__(self, folder: str, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = transformers.AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            add_pooling_layer=False,
        )
        self.head = nn.Linear(self.encoder.config.hidden_size, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = inputs["mask"]
        states = self.encoder(
            input_ids=inputs["ids"], attention_mask=mask, token_type_ids=inputs["segments"]
        ).last_hidden_state
        weight = mask[..., None].to(states.dtype)
        return self.head((states * weight).sum(1) / weight.sum(1))


def _by_torch(settings: config.Config, folder: str) -> dict[str, float]:
    splits = build.open_splits(settings)
    stats = build.label_stats(settings, splits["train"])
    num_steps = build.num_steps(settings, len(splits["train"]))
    made = build.assembled(settings, stats)
    torch.manual_seed(settings.train.seed)
    assert settings.model.dropout == settings.model.attention_dropout, "the reference has one for both"
    model = _Classifier(folder, len(stats.label_names), settings.model.dropout)
    optimizer, peaks = _optimizer(model, settings.optim)
    loss_of = nn.CrossEntropyLoss(label_smoothing=settings.task.label_smoothing)
    batches = pipeline.train_batches(
        splits["train"],
        made.input.transform(made.preprocess, settings.augment),
        made.input,
        preprocess=made.preprocess,
        batch_size=settings.train.batch_size,
        seed=settings.train.seed,
        config=settings.inputs,
    )
    model.train()
    with closing(batches):
        began = time.perf_counter()
        for step, batch in enumerate(itertools.islice(batches, num_steps)):
            loss = loss_of(model(_tensors(batch["inputs"])), torch.from_numpy(batch["label"]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.optim.clip_norm)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * _schedule(settings.optim, step, num_steps)
            optimizer.step()
        seconds = time.perf_counter() - began
    return {
        "accuracy": _accuracy(model, settings, made, splits["val"]),
        "step_seconds": seconds / num_steps,
    }


def _accuracy(model: nn.Module, settings: config.Config, made: build.Assembled, source: Any) -> float:
    batches = evaluate.batches_of(
        source,
        made.input,
        made.preprocess,
        batch_size=settings.train.eval_batch_size or settings.train.batch_size,
        mesh=sharding.mesh(settings.sharding),
        settings=settings.inputs,
    )
    model.eval()
    num_right = 0
    with torch.no_grad():
        for batch in batches:
            predicted = model(_tensors(batch["inputs"])).argmax(-1).numpy()
            num_right += int(((predicted == batch["label"]) & batch["mask"]).sum())
    return num_right / len(source)


def _tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(leaf).to(torch.bool if name == "mask" else torch.int64)
        for name, leaf in inputs.items()
    }


def _optimizer(model: _Classifier, settings: optim.Config) -> tuple[torch.optim.Optimizer, list[float]]:
    """Return AdamW with a group a parameter, and each one's peak rate, by layer-wise decay as jtl has it."""
    depth = model.encoder.config.num_hidden_layers
    groups, peaks = [], []
    for name, parameter in model.named_parameters():
        # Layers from the head down: head, last block, …, first block, embeddings.
        parts = name.split(".")
        distance = 0 if parts[0] == "head" else depth + 1
        distance = depth - int(parts[3]) if "layer" in parts else distance
        is_kernel = parameter.ndim == 2 and "embeddings" not in name
        peaks.append(settings.learning_rate * settings.layer_decay**distance)
        groups.append({"params": [parameter], "weight_decay": settings.weight_decay if is_kernel else 0.0})
    betas = (settings.momentum, settings.beta2)
    return torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=settings.epsilon), peaks


def _schedule(settings: optim.Config, step: int, num_steps: int) -> float:
    warmup = round(settings.warmup * num_steps)
    progress = min(max((step - warmup) / max(num_steps - warmup, 1), 0.0), 1.0)
    return min(1.0, (step + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * progress))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| seed | jtl, % | PyTorch, % | jtl, s a step | PyTorch, s a step |", "|---|---|---|---|---|"]
    for row in rows:
        found = [row["jtl"], row["torch"]]
        shown = [f"{100 * each['accuracy']:.2f}" for each in found]
        shown += [f"{each['step_seconds']:.3f}" for each in found]
        lines.append(f"| {row['seed']} | {' | '.join(shown)} |")
    means = [statistics.fmean(row[name]["accuracy"] for row in rows) for name in ("jtl", "torch")]
    ratios = [row["torch"]["step_seconds"] / row["jtl"]["step_seconds"] for row in rows]
    lines.append("")
    lines.append(
        f"mean accuracy {100 * means[0]:.2f} and {100 * means[1]:.2f} %; jtl's speed is "
        f"{statistics.median(ratios):.2f} of PyTorch's ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
