"""README.md of a run folder: a model card with the metadata that Hugging Face reads (its `model-index` too).

https://huggingface.co/docs/hub/model-cards. Fields that jtl does not know (the licence of your data, who may
use it for what) are left to you, and the card says so.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.files import replace_text
from jtl.report import folder, sections
from jtl.report.folder import Folder

NAME = "README.md"
# What the hub calls what each kind of input is used for, by the unit of messages and the task.
PIPELINES = {
    ("images", "multiclass"): "image-classification",
    ("images", "multilabel"): "image-classification",
    ("texts", "multiclass"): "text-classification",
    ("texts", "multilabel"): "text-classification",
}
# The hub's names for numbers.
METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "auroc": "roc_auc",
    "mean_average_precision": "mean_average_precision",
    "mean_absolute_error": "mae",
    "root_mean_squared_error": "rmse",
    "r2": "r_squared",
    "spearman": "spearmanr",
}


def write(path: Path, summary: Mapping[str, Any] | None = None, licence: str = "") -> Path:
    """Write the card of a run folder into it; `licence` is that of the weights, "" where it is not known.

    Raises:
        UserError: it is no run folder, or a file of it is damaged.
    """
    found = folder.read(path, None if summary is None else dict(summary))
    replace_text(path / NAME, text(found, licence))
    return path / NAME


def text(found: Folder, licence: str = "") -> str:
    """Return the card."""
    import yaml

    head = yaml.safe_dump(metadata(found, licence), sort_keys=False, allow_unicode=True, width=10_000)
    parts = [_about(found, licence), _results(found), _recipe(found), _use(found), _limits(found)]
    return f"---\n{head}---\n\n# {_line(found.name)}\n\n" + "\n\n".join(parts) + "\n"


def metadata(found: Folder, licence: str = "") -> dict[str, Any]:
    """Return the card's metadata, in plain values."""
    about: dict[str, Any] = {"library_name": "jtl", "tags": _tags(found)}
    if licence:
        about["license"] = licence.lower()
    pipeline = _pipeline(found)
    if pipeline:
        about["pipeline_tag"] = pipeline
    base = _base_model(found)
    if base:
        about["base_model"] = base
    about["datasets"] = [_slug(_dataset(found))]
    about["metrics"] = sorted({METRICS[row["name"]] for row in _measured(found)})
    results = [_result(found, pipeline or "other", split) for split in found.splits]
    about["model-index"] = [{"name": found.name, "results": [each for each in results if each["metrics"]]}]
    if not about["model-index"][0]["results"]:
        del about["model-index"]
    return about


def _result(found: Folder, pipeline: str, split: str) -> dict[str, Any]:
    return {
        "task": {"type": pipeline},
        "dataset": {"name": _dataset(found), "type": _slug(_dataset(found)), "split": split},
        "metrics": [
            {
                "type": METRICS[row["name"]],
                "name": sections.words(row["name"]),
                "value": row["value"],
                **({} if row["low"] is None else {"args": {"interval_95": [row["low"], row["high"]]}}),
            }
            for row in _measured(found)
            if row["split"] == split
        ],
    }


def _measured(found: Folder) -> list[dict[str, Any]]:
    """Return the numbers that the hub has a name for, of every split, without those that have no value."""
    return [
        {"split": split, "name": name, "value": value, "low": low, "high": high}
        for split in found.splits
        for name, (value, low, high) in sections.scores_of(found, split).items()
        if name in METRICS and isinstance(value, int | float) and math.isfinite(value)
    ]


def _about(found: Folder, licence: str) -> str:
    names = [_line(str(name)) for name in found.meta.get("label_names") or ()]
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    model, strategy = _section(found, "model"), _section(found, "strategy")
    lines = [
        f"`{_line(str(model.get('name')))}` of size `{_line(str(model.get('size')))}`, trained by strategy "
        f"`{_line(str(strategy.get('name')))}` from `{_line(_source(found))}` on `{_line(_dataset(found))}`.",
        f"Licence of the weights it started from: {licence or 'not known to jtl; see where they came from'}. "
        "The licence of the data is yours to add.",
    ]
    if names:
        lines.append(f"{len(names)} classes: {shown}.")
    return "\n\n".join(lines)


def _results(found: Folder) -> str:
    rows = ["| | split | value | 95 % interval |", "|---|---|---|---|"]
    for split in found.splits:
        for name, (value, low, high) in sections.scores_of(found, split).items():
            bounds = "" if low is None else f"{sections.number(low)} to {sections.number(high)}"
            rows.append(f"| {sections.words(name)} | {split} | {sections.number(value)} | {bounds} |")
    note = (
        "Intervals are percentile bootstrap intervals over the examples of the split: they say how much the"
    )
    note += " choice of examples matters, not how another training run would differ."
    return "## Results\n\n" + "\n".join(rows) + f"\n\n{note} `report.html` has more."


def _recipe(found: Folder) -> str:
    optimizer, train = _section(found, "optim"), _section(found, "train")
    data = found.facts.get("data") or {}
    sizes = ", ".join(f"{split} {about['num_examples']:,}" for split, about in data.items())
    parameters = found.summary.get("parameters") or {}
    lines = [
        f"- data: {sizes}" if sizes else "",
        f"- pre-processing: {_line(str(found.facts.get('preprocess', '')))}" if found.facts else "",
        f"- {found.summary.get('steps', 0):,} steps of {train.get('batch_size')}, seed {train.get('seed')}; "
        f"step {(found.summary.get('best') or {}).get('step', '-')} is kept",
        f"- {optimizer.get('name')}, learning rate {optimizer.get('learning_rate')}, weight decay "
        f"{optimizer.get('weight_decay')}, {optimizer.get('schedule', '')} schedule",
        f"- {parameters.get('trainable', 0):,} of {parameters.get('total', 0):,} parameters trained",
        "- every setting stands in `config.json`",
    ]
    return "## Recipe\n\n" + "\n".join(line for line in lines if line)


def _use(found: Folder) -> str:
    del found
    return "## Use\n\n    jtl predict --run FOLDER FILES\n    jtl evaluate --run FOLDER --data DATA"


def _limits(found: Folder) -> str:
    rows = [
        f"- calibration error {sections.number(value)} on {split}: that far are probabilities off"
        for split in found.splits
        for name, (value, _, _) in sections.scores_of(found, split).items()
        if name == "expected_calibration_error"
    ]
    worst = [line for split in found.splits if (line := _worst(found, split))]
    notes = [f"- {_line(str(note))}" for note in found.meta.get("notes") or ()]
    fixed = [
        "- it knows the classes above and no others: every input is given one of them",
        "- the validation split chose the step that is kept, so its numbers are a little too good",
    ]
    return (
        "## Limits\n\n"
        + "\n".join([*fixed, *worst, *rows])
        + "\n\nSaid before training:\n\n"
        + "\n".join(notes)
    )


def _worst(found: Folder, split: str) -> str:
    metrics = found.splits[split].metrics
    names, own = metrics.get("label_names") or (), metrics.get("per_class") or {}
    recall = own.get("recall")
    known = [(value, place) for place, value in enumerate(recall or ()) if value is not None]
    if not known:
        return ""
    value, place = min(known)
    return f"- worst class on {split}: {_line(str(names[place]))}, of which {value:.1%} are found"


def _tags(found: Folder) -> list[str]:
    model, strategy = _section(found, "model"), _section(found, "strategy")
    names = ("jtl", "jax", "transfer-learning", model.get("name"), strategy.get("name"))
    return [str(name) for name in names if name]


def _pipeline(found: Folder) -> str:
    task = str(_section(found, "task").get("name", ""))
    return PIPELINES.get((str(found.facts.get("unit", "")), task), "")


def _base_model(found: Folder) -> str:
    """Return the hub's name of the weights, "" where they are not of the hub."""
    spec = str(_section(found, "model").get("weights") or "")
    return spec.removeprefix("hf://").partition("@")[0] if spec.startswith("hf://") else ""


def _source(found: Folder) -> str:
    source = sections.source(found)
    return source if "://" in source else Path(source).name


def _dataset(found: Folder) -> str:
    """Return the data's own name: no path of this machine belongs into a card."""
    data = _section(found, "data")
    path = str(data.get("path") or "").rstrip("/")
    return Path(path).name if path else str(data.get("dataset") or data.get("name") or "data")


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-") or "data"


def _section(found: Folder, name: str) -> Mapping[str, Any]:
    section = found.config.get(name)
    return section if isinstance(section, Mapping) else {}


def _line(name: str) -> str:
    """Return a stranger's text in one line in which Markdown and HTML mean nothing."""
    plain = " ".join(name.encode("utf-8", errors="backslashreplace").decode().split())
    for sign, written in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("|", "&#124;"),
        ("`", "'"),
        ("[", "&#91;"),
        ("*", "&#42;"),
    ):
        plain = plain.replace(sign, written)
    return plain
