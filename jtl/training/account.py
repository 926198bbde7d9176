"""What a run tells of itself beside its numbers: intervals, every prediction, report.html and a model card.

It comes after everything that the run is for, and before summary.json: whatever fails here is one line on
the screen and in meta.json, and ends no run. Only a signal, which the same command answers later, passes.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl import distributed, files
from jtl.data import Source
from jtl.errors import UserError, shortened
from jtl.inputs import Glimpse, Input, Unreadable
from jtl.metrics import Summary
from jtl.report import card, evaluation, gallery, page, predictions, summary
from jtl.report.bootstrap import Settings
from jtl.report.gallery import Overlays
from jtl.report.scores import Scored
from jtl.training import meta, scored
from jtl.training.ready import Run
from jtl.weights.hub import catalogue

# Of the intervals that every run ends with.
SETTINGS = Settings()
# Examples whose size is looked at.
MAX_SIZED = 400
# (run folder, source, rows) → what the predictions of these rows hang on. What explains a model stands on it:
# whoever starts the run gives this.
Explain = Callable[[Path, Source, Sequence[int]], Overlays]
# The ends of the paths of jtl's own programs, and the verb that each stands for by itself.
PROGRAMS: dict[str, list[str]] = {"jtl": [], "jtl/__main__.py": [], "jtl/main.py": ["train"]}


class Told(NamedTuple):
    """What is known of a split: the numbers to show, their intervals, what metrics.json has of it beside the
    task's numbers, and every example (None where they were not kept)."""

    shown: Summary
    intervals: dict[str, tuple[float, float]]
    more: dict[str, Any]
    examples: Scored | None = None


def of_split(ready: Run, split: str, found: Summary, before: Mapping[str, Told]) -> Told:
    """Return what is known of a split; `before` are those told already, of which validation chooses."""
    told = Told(found, {}, {})
    with _harmless(ready, f"the intervals of {split}"):
        plan = ready.plan
        kind = scored.kind_of(plan.settings.task.name)
        examples = scored.examples(found, plan.built.parts.task, plan.settings.task, plan.stats)
        if examples is None:
            return told
        known = {name: each.examples for name, each in before.items() if each.examples is not None}
        limits = scored.limits_of(split, {**known, split: examples}, kind)
        measured = scored.measured(examples, kind, SETTINGS, limits)
        per_class = {name: values.tolist() for name, values in found.per_class.items()}
        more = {
            "per_class": per_class,
            "label_names": list(examples.label_names),
            **evaluation.as_json(measured, SETTINGS),
            **evaluation.confusions(found.confusion, examples.label_names),
        }
        told = Told(evaluation.with_scores(found, measured), evaluation.bounds(measured), more, examples)
    return told


def intervals(told: Mapping[str, Told]) -> dict[str, Any]:
    """Return what summary.json says of them: each number of every split with its interval."""
    scores = {
        f"{split}/{name}": row
        for split, each in told.items()
        for name, row in each.more.get("scores", {}).items()
    }
    return {"scores": scores} if scores else {}


def explained(ready: Run, told: Mapping[str, Told], explain: Explain | None) -> dict[str, Overlays]:
    """Return by split what the predictions that its gallery shows hang on; nothing without `explain`.

    Nor of a run of several processes: each has a part of the devices, and one alone has the folder.
    """
    found: dict[str, Overlays] = {}
    if explain is not None and distributed.num_processes() > 1:
        ready.reporter.live.log("the report shows no explanations: several processes train")
        return found
    if explain is not None and ready.budget is not None and not ready.budget.has_time_to_explain():
        ready.reporter.live.log(
            "the report shows no explanations: train.minutes leaves no time for them; jtl explain makes some"
        )
        return found
    kind = scored.kind_of(ready.plan.settings.task.name)
    for split, each in told.items():
        if explain is None or each.examples is None:
            continue
        with ready.reporter.phases.measure("explain"), _harmless(ready, f"the explanations of {split}"):
            rows = gallery.explained(gallery.chosen(kind, each.examples))
            found[split] = explain(ready.plan.folder, ready.feed.splits[split], rows)
    for line in dict.fromkeys(each.why_not for each in found.values() if each.why_not):
        ready.reporter.live.log(f"the report shows no explanations: {line}")
    return found


def write(
    ready: Run, told: Mapping[str, Told], result: Mapping[str, Any], overlays: Mapping[str, Overlays]
) -> None:
    """Write predictions and galleries of every split, what was trained on what, the report and the card."""
    folder = ready.plan.folder
    for split, each in told.items():
        if each.examples is not None:
            with _harmless(ready, f"the predictions of {split}"):
                _write_examples(ready, folder / split, split, each.examples, overlays.get(split))
    with _harmless(ready, page.FACTS):
        methods = [each.method for each in overlays.values()]
        summary.write_json(folder / page.FACTS, {**_facts(ready), "explained": "".join(methods[:1])})
    with _harmless(ready, page.NAME):
        page.write(folder, result)
    with _harmless(ready, card.NAME):
        card.write(folder, result, licence(ready.plan.settings.model.weights))


@contextmanager
def harmless(folder: Path, say: Callable[[str], None], what: str) -> Iterator[None]:
    """Say that something could not be made of a run folder, note it in meta.json, and go on."""
    try:
        yield
    except Exception as error:
        line = f"{what} could not be made ({type(error).__name__}: {shortened(str(error))}); the run is whole"
        say(line)
        with suppress(UserError, OSError):
            path = folder / "meta.json"
            about = files.read_record(path)
            notes = [*about.get("notes", files.TEXTS, []), line]
            summary.write_json(path, {**about.values, "notes": notes})


def _harmless(ready: Run, what: str) -> AbstractContextManager[None]:
    return harmless(ready.plan.folder, ready.reporter.live.log, what)


def licence(spec: str) -> str:
    """Return the licence of weights of the catalogue, by their name or where they are; "" of others."""
    known = [each for each in catalogue.entries().values() if spec in (each.name, each.spec)]
    return known[0].licence if known else ""


def command() -> str:
    """Return the command of this process, as a person would type it; "" where a program called jtl."""
    first, *rest = sys.argv or [""]
    verb = next((verb for path, verb in PROGRAMS.items() if Path(first).match(path)), None)
    return "" if verb is None else shlex.join(["jtl", *verb, *rest])


def _write_examples(
    ready: Run, folder: Path, split: str, examples: Scored, overlays: Overlays | None
) -> None:
    source = ready.feed.splits[split]
    kind_of_input, kind = ready.plan.built.parts.input, scored.kind_of(ready.plan.settings.task.name)
    names = (source.describe(index) for index in range(len(source)))
    predictions.write(folder / predictions.NAME, predictions.columns(kind, examples, names))
    shown = gallery.items(
        gallery.chosen(kind, examples),
        source.describe,
        partial(_glimpse, kind_of_input, source, is_shown=True),
        {} if overlays is None else overlays.found,
    )
    summary.write_json(folder / page.GALLERY, shown)


def _facts(ready: Run) -> dict[str, Any]:
    """Return what the report shows that no other file says."""
    plan, parts = ready.plan, ready.plan.built.parts
    loaded = plan.built.loaded
    return {
        "command": command(),
        "unit": parts.input.unit,
        "task": plan.settings.task.name,
        "monitor": plan.monitor,
        "data": {split: _about(ready, source) for split, source in ready.feed.splits.items()},
        "preprocess": parts.input.described(parts.preprocess),
        "weights": "" if loaded is None else loaded.report.text(),
        "freeze": [row._asdict() for row in meta.freeze_rows(plan.built, plan.settings)],
    }


def _about(ready: Run, source: Source) -> dict[str, Any]:
    """Return how many examples a split has, of which classes or values, and how large they are."""
    labels, names = source.labels(), source.info.label_names
    found: dict[str, Any] = {"num_examples": len(source)}
    if labels is not None and names:
        counts = np.bincount(labels, minlength=len(names)) if labels.ndim == 1 else labels.sum(0)
        found["classes"] = {name: int(count) for name, count in zip(names, counts, strict=True)}
    elif labels is not None:
        found["values"] = _quantiles({f"target {place}": each for place, each in enumerate(labels.T)})
    rows = np.unique(np.linspace(0, len(source) - 1, min(MAX_SIZED, len(source))).astype(np.int64))
    kind = ready.plan.built.parts.input
    sizes = [_glimpse(kind, source, row, is_shown=False).size for row in rows.tolist()]
    names_of = dict.fromkeys(name for size in sizes for name in size)
    found["sizes"] = _quantiles({name: [size[name] for size in sizes if name in size] for name in names_of})
    found["num_sized"] = len(rows)
    return found


def _quantiles(values: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the least, the quartiles and the most of each."""
    return {
        name: np.quantile(np.asarray(each, np.float64), (0, 0.25, 0.5, 0.75, 1)).tolist()
        for name, each in values.items()
    }


def _glimpse(kind: Input, source: Source, index: int, *, is_shown: bool) -> Glimpse:
    """Return what is shown of an example; nothing of one that cannot be read any more."""
    try:
        return kind.glimpse(source[index]["raw"], is_shown=is_shown)
    except (Unreadable, OSError):
        return Glimpse()
