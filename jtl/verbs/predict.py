"""The verb `jtl predict`: what a model says of inputs that need no labels."""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs import rows as written
from jtl.verbs.contract import (
    BATCH_SIZE,
    Overrides,
    Verb,
    add_model,
    check_at_least,
    refuse,
    say_next,
    show,
)

if TYPE_CHECKING:
    import jtl.data
    import jtl.inputs
    import jtl.predictor
    import jtl.training.config

TOP = 5
SHOWN_DIGITS, SHOWN_CHARACTERS = 4, 80
# What the result says beside its rows.
ABOUT = ("model", "method", "notes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_model(parser, has_artefact=True)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="files, or folders of them")
    parser.add_argument(
        "--text", action="append", default=[], metavar="TEXT", help="a text itself; repeatable"
    )
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAMES",
        help="names of the outputs, or for CLIP and SigLIP the classes to tell apart: a,b,c or a file",
    )
    parser.add_argument("--top", type=int, default=TOP, metavar="K", help="classes to show of each input")
    parser.add_argument("--out", default="", metavar="FILE", help="also write a .csv or .jsonl file")


def run(
    *,
    run_folder: str = "",
    weights: str = "",
    artefact: str = "",
    inputs: Sequence[str] = (),
    texts: Sequence[str] = (),
    classes: str = "",
    top: int = TOP,
    batch_size: int = BATCH_SIZE,
    out: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Predict each input; print a table to stderr and return one JSON-ready result.

    The model is of a run, of weights, or of an `artefact`, a folder that `jtl export` wrote. `inputs` are
    paths, `texts` are for models that read some. `classes` are names, separated by commas or a line each in
    the file of that path: of the weights' outputs, or where they have none (CLIP, SigLIP), of the classes of
    a zero-shot head. `top` is how many classes are shown of each.

    Raises:
        UserError: model and inputs cannot be had. Single inputs that cannot be read have an "error" instead.
    """
    from jtl import predictor
    from jtl.data import tell
    from jtl.report.tables import aligned
    from jtl.training import build, config

    check_at_least("--top", top)
    check_at_least("--batch-size", batch_size)
    if out:
        written.check_writable(out, written.WRITERS)
    ready = of_artefact(artefact, classes, overrides) if artefact else None
    if ready is not None:
        found = predictor.Trained(ready.settings, ready.stats)
    else:
        found = predictor.of_run(run_folder) if run_folder else of_weights(weights, classes, overrides)
    given = [path for path in inputs if tell.is_set(path)]
    settings = build.with_data(found.settings, given[0]) if given else found.settings
    settings = config.with_overrides(settings, overrides)
    check_labels(settings, run_folder)
    kind = config.input_of(settings.model)
    given_sources = sources(settings, inputs, texts)
    opened = ready or predictor.open(found._replace(settings=settings))
    opened, lines = _fitted(opened, given_sources)
    notes = "\n".join([*lines, predictor.described(opened)])
    sys.stderr.write(notes + "\n")
    rows: list[dict[str, Any]] = []
    with written.writing(out, columns(given_sources)) as write:
        for row in _rows(opened, given_sources, batch_size, top):
            rows.append(row)
            write(row)
    sys.stderr.write(aligned(_table(rows, kind.holds), left=(0, 1)) + "\n")
    return {"model": artefact or run_folder or weights, "notes": notes.splitlines(), kind.unit: rows}


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        run_folder=args.run,
        weights=args.weights,
        artefact=args.artefact,
        inputs=args.inputs,
        texts=args.text,
        classes=args.classes,
        top=args.top,
        batch_size=args.batch_size,
        out=args.out,
        overrides=overrides,
    )
    show(args, result)
    check_readable(result)
    given = {"--run": args.run, "--weights": args.weights, "--artefact": args.artefact}
    model = next([flag, value] for flag, value in given.items() if value)
    out = [] if args.out else [["jtl", "predict", *model, *args.inputs[:1], "--out", "predictions.csv"]]
    measure = [] if args.artefact else [["jtl", "evaluate", *model, "--data", "LABELLED_DATA"]]
    say_next(*out, *measure, ["jtl", "serve", *model])
    return 0


def check_labels(settings: "jtl.training.config.Config", run_folder: str) -> None:
    """Raise UserError for a model of a task that predicts nothing."""
    from jtl.tasks import TASKS
    from jtl.tasks.contract import NO_LABELS

    if TASKS[settings.task.name].label_kind == NO_LABELS:
        raise UserError(
            f"{run_folder!r} was trained by task {settings.task.name!r}, which has no labels to predict; "
            f"train on labels from there: --config.model.weights={run_folder}"
        )


def check_readable(result: dict[str, Any]) -> None:
    """Raise UserError if an input of the result could not be read."""
    ((unit, rows),) = ((name, value) for name, value in result.items() if name not in ABOUT)
    if faults := [row["error"] for row in rows if "error" in row]:
        raise UserError(
            f"{len(faults)} of {len(rows)} {unit} cannot be read (the others are predicted): {faults[0]}"
        )


def class_names(text: str) -> tuple[str, ...]:
    """Return class names separated by commas, or the lines of the file of that path.

    >>> class_names("ant, bee")
    ('ant', 'bee')

    Raises:
        UserError: the file is no text.
    """
    path = Path(text)
    if "," not in text and not path.is_file():
        raise UserError(f"--classes {text!r} is no file; expected one, with a name a line, or names: a,b,c")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except UnicodeDecodeError as error:
        raise UserError(f"--classes {text!r} is no text; expected the name of a class a line") from error
    return tuple(name.strip() for name in lines if name.strip())


def sources(
    settings: "jtl.training.config.Config", paths: Sequence[str], texts: Sequence[str]
) -> "list[jtl.data.Source]":
    """Open what is to be predicted: the paths in their order, then the texts.

    The rows of a table, or files of an archive, come split by split.

    Raises:
        UserError: there is nothing, or it is not what the model reads.
    """
    import numpy as np

    from jtl.data import SOURCES, Info, Labels, files, preflight, tell
    from jtl.data.contract import NO_LABELS, TEXT
    from jtl.data.texts import Texts
    from jtl.training import build, config

    kind = config.input_of(settings.model)
    if not paths and not texts:
        raise UserError(f"there is nothing to predict; give files or folders of {kind.unit}")
    _check_endings(kind, paths)
    sources: list[Any] = []
    for is_set, group in itertools.groupby(paths, tell.is_set):
        if not is_set:
            sources.append(files.unlabelled(group, kind))
            continue
        for path in group:
            is_same = tell.kind_of(path) == settings.data.name
            data = replace((settings if is_same else build.with_data(settings, path)).data, path=path)
            sources += SOURCES[data.name].open(data, Labels(NO_LABELS)).values()
    if texts:
        sources.append(
            Texts(Info("--text", (), TEXT), tuple(texts), None, "--text", np.arange(len(texts)) + 1)
        )
    for source in sources:
        preflight.check_kind(source, kind)
        for note in source.info.notes:
            sys.stderr.write(f"{note}\n")
    return sources


def _fitted(
    opened: "jtl.predictor.Predictor", sources: "Sequence[jtl.data.Source]"
) -> "tuple[jtl.predictor.Predictor, list[str]]":
    """Return the model reading the inputs as `jtl evaluate` would, and lines on what is lost in that.

    Inputs that do not fit what it was trained with are told in a line, and those that cannot be read so have
    an error each.
    """
    from jtl import predictor
    from jtl.data import preflight

    facts, lines = preflight.glance(sources, opened.input)
    try:
        opened, more = predictor.fitted(opened, facts)
    except UserError as error:
        more = [str(error)]
    return opened, [*lines, *more]


def _check_endings(kind: "jtl.inputs.Input", paths: Sequence[str]) -> None:
    """Raise UserError for a file that ends as the examples of another kind do."""
    from jtl.inputs import INPUTS

    for path in paths:
        for other in INPUTS.values():
            if path.lower().endswith(other.suffixes) and not path.lower().endswith(kind.suffixes):
                raise UserError(
                    f"{path!r} is one of {other.unit}, and the model reads {kind.unit}; give those"
                )


def _rows(
    opened: "jtl.predictor.Predictor", sources: "Sequence[jtl.data.Source]", batch_size: int, top: int
) -> Iterator[dict[str, Any]]:
    import numpy as np

    from jtl import predictor

    step = predictor.make_predict_step(opened)
    for source in sources:
        batches = predictor.batches(opened, source, batch_size, marks_unreadable=True)
        for batch, found in predictor.stepped(opened, step, batches):
            values = np.asarray(found)
            for row in np.flatnonzero(batch["mask"]):
                named = NAMED[source.info.holds](source, int(batch["id"][row]))
                if batch["fault"][row]:
                    yield {**named, "error": str(batch["fault"][row])}
                else:
                    yield {
                        **named,
                        "predictions": predictor.ranked(values[row], opened.stats.label_names, top),
                    }


def columns(sources: "Sequence[jtl.data.Source]") -> list[str]:
    """Return the columns that name examples of these sources, in the order in which they come."""
    names = (NAMED[source.info.holds](source, 0) for source in sources)
    return list(dict.fromkeys(name for each in names for name in each))


def _path(source: "jtl.data.Source", index: int) -> dict[str, str]:
    return {"path": source.describe(index)}


def _text(source: "jtl.data.Source", index: int) -> dict[str, str]:
    """Return the text, or both of a pair, and where it stands."""
    from jtl.inputs import Unreadable
    from jtl.inputs.raw_text import texts_of

    try:
        texts = texts_of(source[index]["raw"])
    except Unreadable:
        texts = ("",)
    return {**dict(zip(("text", "text_pair"), texts, strict=False)), "source": source.describe(index)}


def of_artefact(artefact: str, classes: str, overrides: Overrides) -> "jtl.predictor.Predictor":
    """Return the model of a folder that `jtl export` wrote.

    Raises:
        UserError: it is none, or is damaged, or something is to be changed that it has settled.
    """
    from jtl.export import artefact as artefacts

    if classes:
        raise UserError("--classes is given with --artefact, which names its own classes; leave it out")
    refuse([each for each in overrides if not each[0].startswith("data.")], but=" but data.*")
    return artefacts.open_folder(artefact)


def of_weights(weights: str, classes: str, overrides: Overrides) -> "jtl.predictor.Trained":
    """Return the model of weights, its outputs called by `classes` or the names they bring; say which.

    Raises:
        UserError: the weights are of no model jtl knows, or have another number of classes.
    """
    from jtl import predictor
    from jtl.training import config

    settings = config.weights_of(overrides)
    found = predictor.of_weights(weights, settings, needs_head=not classes)
    if classes and not found.stats.label_names:
        return predictor.of_classes(weights, class_names(classes), settings)
    if classes:
        return predictor.with_names(found, class_names(classes))
    names = predictor.imagenet_names()
    if predictor.has_names(found):
        return found
    if len(found.stats.label_names) == len(names):
        sys.stderr.write("1000 outputs without names: shown as those of ImageNet-1k\n")
        return predictor.with_names(found, names)
    sys.stderr.write(f"{weights} brings no class names: shown are indices; --classes names them\n")
    return found


def _table(rows: Sequence[dict[str, Any]], holds: str) -> list[list[str]]:
    """Return a line for each input and prediction; what it is on its first alone."""
    table = [[holds, "prediction", ""]]
    for row in rows:
        name = _shown(row)
        if "error" in row:
            table.append([name, "cannot be read", ""])
        for rank, each in enumerate(row.get("predictions", ())):
            table.append(["" if rank else name, each["label"], f"{each['value']:.{SHOWN_DIGITS}f}"])
    return table


def _shown(row: Mapping[str, Any]) -> str:
    """Return what an input is in one line: its path, or the beginning of its text, of a pair with both."""
    line = " ".join(" | ".join(row[name] for name in ("path", "text", "text_pair") if name in row).split())
    is_short = "path" in row or len(line) <= SHOWN_CHARACTERS
    return line if is_short else line[: SHOWN_CHARACTERS - 1] + "…"


# What names an example in the result, by what its source holds.
NAMED: dict[str, Callable[[Any, int], dict[str, str]]] = {"image": _path, "text": _text}

VERB = Verb("classify images or texts by a run or pretrained weights", add_arguments, _command)
