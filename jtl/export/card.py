"""The card of an artefact: what it is, how its inputs are made, how it is run, and how it was compared."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jtl import __version__
from jtl.export import graph
from jtl.export.contract import INPUTS, RECORD_NAME, Job, Target
from jtl.export.parity import Parity
from jtl.models import MODELS
from jtl.tasks import TASKS

NAME = "README.md"
MAX_NAMED = 20
READ_BY_JTL = " The folder was read again by jtl, from its files alone."
# What a hub reads of a card, by the kind of input.
PIPELINES = {"image": "image-classification", "tokens": "text-classification"}


def text(
    job: Job, to: str, target: Target, measured: Parity, *, folder: Path, notes: list[str], data: str
) -> str:
    """Return the card of what is in the folder: Markdown, with the metadata that hubs read in front.

    Where the run's own card goes along, it comes first, with its metadata.
    """
    parts = job.predictor
    settings, kind = parts.settings, parts.input
    names = parts.stats.label_names
    shown = ", ".join(names[:MAX_NAMED]) + (f", … ({len(names):,} in all)" if len(names) > MAX_NAMED else "")
    inputs = graph.shown(job)
    own = Path(job.origin) / NAME
    has_own = target.has_run_card and own.is_file()
    lines = [
        *([own.read_text(encoding="utf-8"), ""] if has_own else _metadata(job, target.library(folder))),
        f"# {settings.model.name} {settings.model.size}, exported as {to}",
        "",
        f"Made by jtl {__version__} of `{Path(job.origin).name}`.",
        "",
        "## Compared with the model it was made of",
        "",
        f"On {measured.num_examples:,} {kind.unit} of {data}, from their bytes to the logits: "
        f"{measured.described()}.{'' if target.is_graph else READ_BY_JTL}",
        "",
        "## How an input is made",
        "",
        f"{kind.described(parts.preprocess)}.",
    ]
    if target.is_graph:
        given = "normalised already" if job.is_normalised else "normalised inside"
        lines += ["", f"The program takes, {given}:", ""]
        lines += [f"- {f'`{name}`: ' if name else ''}{each}" for name, each in inputs.items()]
    lines += [
        "",
        "## How to use it",
        "",
        "```python",
        target.usage(folder, _given(inputs), _kind(job)),
        "```",
        "",
        _said(job),
        "",
    ]
    lines += [f"Classes, in the order of the logits: {shown}.", ""] if names else []
    lines += ["## Notes", "", *(f"- {note}" for note in notes), f"- all of it by name: `{RECORD_NAME}`", ""]
    return "\n".join(lines)


def _given(inputs: Mapping[str, str]) -> str:
    """Return how a batch is written in Python.

    >>> _given({"": "uint8"}), _given({"ids": "int32"})
    ('inputs', '{"ids": ids}')
    """
    named = ", ".join(f'"{name}": {name}' for name in inputs)
    return INPUTS if "" in inputs else f"{{{named}}}"


def _kind(job: Job) -> str:
    return MODELS[job.predictor.settings.model.name].input


def _metadata(job: Job, library: str) -> list[str]:
    tags = ["jtl", job.predictor.settings.model.name]
    told = {"library_name": library, "pipeline_tag": PIPELINES[_kind(job)], "tags": tags}
    return ["---", *(f"{name}: {value}" for name, value in told.items()), "---", ""]


def _softmax(job: Job) -> str:
    del job
    return "The probabilities of the classes are the softmax of the logits."


def _sigmoid(job: Job) -> str:
    del job
    return "The probability of each class by itself is the sigmoid of its logit."


def _scaled(job: Job) -> str:
    mean, std = (list(each) for each in (job.predictor.stats.mean, job.predictor.stats.std))
    return f"The values are logits * {std} + {mean}: deviation and mean of the training labels."


# By the kind of a task's labels.
SAID: dict[str, Callable[[Job], str]] = {"class": _softmax, "multilabel": _sigmoid, "regression": _scaled}


def _said(job: Job) -> str:
    """Return how the logits are read."""
    return SAID[TASKS[job.predictor.settings.task.name].label_kind](job)
