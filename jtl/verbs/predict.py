"""The verb `jtl predict`: what a model says of inputs that need no labels."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs import given
from jtl.verbs import rows as written
from jtl.verbs.contract import (
    BATCH_SIZE,
    Overrides,
    Verb,
    add_model,
    check_at_least,
    model_words,
    override_words,
    say_next,
    show,
)

if TYPE_CHECKING:
    import jtl.data
    import jtl.predictor

TOP = 5
SHOWN_DIGITS, SHOWN_CHARACTERS = 4, 80
# More inputs than that are not repeated in the commands that come next.
MAX_REPEATED = 3
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
    from jtl.report.tables import aligned
    from jtl.training import config

    check_at_least("--top", top)
    check_at_least("--batch-size", batch_size)
    if out:
        written.check_writable(out, written.WRITERS)
    names = given.class_names(classes)
    ready = given.of_artefact(artefact, names, overrides) if artefact else None
    if ready is not None:
        found = predictor.Trained(ready.settings, ready.stats)
    else:
        found = given.of_model(run_folder, weights, names, overrides)
    settings = given.reading(found.settings, inputs, overrides)
    given.check_predicts(settings, run_folder)
    kind = config.input_of(settings.model)
    sources = given.sources(settings, inputs, texts)
    opened = ready or predictor.open(found._replace(settings=settings))
    opened, lines = given.fitted(opened, sources)
    notes = "\n".join([*lines, predictor.described(opened)])
    sys.stderr.write(notes + "\n")
    rows: list[dict[str, Any]] = []
    with written.writing(out, given.columns(sources)) as write:
        for row in _rows(opened, sources, batch_size, top):
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
    say_next(*_following(args, overrides))
    return 0


def _following(args: argparse.Namespace, overrides: Overrides) -> list[list[str]]:
    """Return the commands that come next: the same to a file or how right it is, and the model at work."""
    model = [*model_words(args), *(["--classes", args.classes] if args.classes else [])]
    settings = override_words(overrides)
    examples = [*args.inputs, *(f"--text={text}" for text in args.text)]
    examples = examples if len(examples) <= MAX_REPEATED else ["FILES"]
    to_file = ["jtl", "predict", *model, *examples, *settings, "--out", "predictions.csv"]
    explained = ["jtl", "explain", *model, *examples, *settings]
    measured = ["jtl", "evaluate", *model, "--data", "LABELLED_DATA", *override_words(overrides, "data.")]
    is_plain = not args.artefact and not args.classes
    asked = [*([] if args.out else [to_file]), *([explained] if is_plain else [])]
    measures = bool(args.out) and not args.artefact
    return [*asked, *([measured] if measures else []), ["jtl", "serve", *model, *settings]]


def check_readable(result: dict[str, Any]) -> None:
    """Raise UserError if an input of the result could not be read."""
    ((unit, rows),) = ((name, value) for name, value in result.items() if name not in ABOUT)
    if faults := [row["error"] for row in rows if "error" in row]:
        raise UserError(
            f"{len(faults)} of {len(rows)} {unit} cannot be read (the others are predicted): {faults[0]}"
        )


def _rows(
    opened: "jtl.predictor.Predictor", sources: "Sequence[jtl.data.Source]", batch_size: int, top: int
) -> Iterator[dict[str, Any]]:
    from jtl import predictor

    step = predictor.make_predict_step(opened)
    for source, index, values, fault in given.predicted(opened, step, sources, batch_size):
        named = given.named(source, index)
        if fault:
            yield {**named, "error": fault}
        else:
            yield {**named, "predictions": predictor.ranked(values, opened.stats.label_names, top)}


def _table(rows: Sequence[dict[str, Any]], holds: str) -> list[list[str]]:
    """Return a line for each input and prediction; what it is on its first alone."""
    table = [[holds, "prediction", ""]]
    for row in rows:
        name = shown(row)
        if "error" in row:
            table.append([name, "cannot be read", ""])
        for rank, each in enumerate(row.get("predictions", ())):
            table.append(["" if rank else name, each["label"], f"{each['value']:.{SHOWN_DIGITS}f}"])
    return table


def shown(row: Mapping[str, Any]) -> str:
    """Return what an input is in one line: its path, or the beginning of its text, of a pair with both."""
    line = " ".join(" | ".join(row[name] for name in ("path", "text", "text_pair") if name in row).split())
    is_short = "path" in row or len(line) <= SHOWN_CHARACTERS
    return line if is_short else line[: SHOWN_CHARACTERS - 1] + "…"


VERB = Verb("classify images or texts by a run or pretrained weights", add_arguments, _command)
