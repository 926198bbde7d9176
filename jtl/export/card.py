"""The card of an artefact: what it is, how its inputs are made, how it is run, and how it was compared."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jtl import __version__
from jtl.export import graph
from jtl.export.contract import RECORD_NAME, Job, Target
from jtl.export.hub import USAGES
from jtl.export.parity import Parity
from jtl.tasks import TASKS

NAME = "README.md"
MAX_NAMED = 20
READ_BY_JTL = " The folder was read again by jtl, from its files alone."
# What a hub reads of a card, by the kind of input.
PIPELINES = {"image": "image-classification", "tokens": "text-classification"}


def text(job: Job, to: str, target: Target, measured: Parity, *, notes: list[str], data: str) -> str:
    """Return the card: Markdown, with the metadata that hubs read in front."""
    parts = job.predictor
    settings, kind = parts.settings, parts.input
    names = parts.stats.label_names
    shown = ", ".join(names[:MAX_NAMED]) + (f", … ({len(names):,} in all)" if len(names) > MAX_NAMED else "")
    inputs = graph.shown(job)
    lines = [
        *_metadata(job, to),
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
    lines += ["", "## How to use it", "", "```python", _usage(target, inputs, job), "```", "", _said(job), ""]
    lines += [f"Classes, in the order of the logits: {shown}.", ""] if names else []
    lines += ["## Notes", "", *(f"- {note}" for note in notes), f"- all of it by name: `{RECORD_NAME}`", ""]
    return "\n".join(lines)


def _usage(target: Target, inputs: Mapping[str, str], job: Job) -> str:
    named = ", ".join(f'"{name}": {name}' for name in inputs)
    given = "inputs" if "" in inputs else f"{{{named}}}"
    if not target.is_graph:
        return target.usage.format(**USAGES[_kind(job)]) if "{" in target.usage else target.usage
    return target.usage.replace("{inputs}", given)


def _kind(job: Job) -> str:
    from jtl.models import MODELS

    return MODELS[job.predictor.settings.model.name].input


def _metadata(job: Job, to: str) -> list[str]:
    library = {"timm": "timm", "huggingface": "transformers", "hub-folder": "transformers"}.get(to, "jax")
    tags = ["jtl", job.predictor.settings.model.name]
    return [
        "---",
        f"library_name: {library}",
        f"pipeline_tag: {PIPELINES[_kind(job)]}",
        f"tags: {tags}",
        "---",
        "",
    ]


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
