"""The verb `jtl explain`: what of an image or text a model's class hangs on."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs import given, predict
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
    import jtl.explain.examples
    import jtl.predictor

FOLDER, ARRAYS, PAGE = "", ".npz", ".html"
DEFAULT_FOLDER = "explained"
SHOWN_TEXTS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_model(parser)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="files, or folders of them")
    parser.add_argument(
        "--text", action="append", default=[], metavar="TEXT", help="a text itself; repeatable"
    )
    parser.add_argument(
        "--method",
        default="",
        metavar="NAME",
        help="grad_cam, attention_gradient, attention_rollout, integrated_gradients or gradient_x_input "
        "(default: the first that the model offers)",
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        default="",
        metavar="NAME",
        help="the class to explain (default: the first)",
    )
    parser.add_argument(
        "--out",
        default="",
        metavar="PATH",
        help=f"a folder for pictures (default: {DEFAULT_FOLDER}), a .html for texts, or a .npz of arrays",
    )


def run(
    *,
    run_folder: str = "",
    weights: str = "",
    inputs: Sequence[str] = (),
    texts: Sequence[str] = (),
    method: str = "",
    class_name: str = "",
    batch_size: int = BATCH_SIZE,
    out: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Explain each input; print what was found to stderr and return one JSON-ready result.

    Raises:
        UserError: model and inputs cannot be had, or the model offers no such explanation. Single inputs that
            cannot be read have an "error" instead.
    """
    from jtl import predictor
    from jtl.explain import METHODS, examples
    from jtl.training import config

    check_at_least("--batch-size", batch_size)
    found = given.of_model(run_folder, weights, overrides=overrides)
    found = found._replace(settings=given.reading(found.settings, inputs, overrides))
    kind = config.input_of(found.settings.model)
    sink = _sink(out, kind.holds)
    sources = given.sources(found.settings, inputs, texts)
    opened = examples.open_model(found)
    chosen = examples.chosen(opened, method)
    output = examples.output_of(opened, class_name)
    how = f"explained by {METHODS[chosen].source}" + ("" if method else " (--method chooses another)")
    notes = [*predictor.described(opened).splitlines(), how]
    sys.stderr.write("\n".join(notes) + "\n")
    step = examples.make_step(opened, chosen, output)
    rows: list[dict[str, Any]] = []
    with sink(out, opened, METHODS[chosen]) as write:
        for source in sources:
            for each in examples.explained(opened, step, source, batch_size):
                named = given.named(source, each.row)
                row = {**named, "error": each.fault} if each.fault else {**named, **_told(opened, each)}
                rows.append(row | ({} if each.fault else write(row, each)))
    return {"model": run_folder or weights, "method": chosen, "notes": notes, kind.unit: rows}


def _told(opened: "jtl.predictor.Predictor", each: "jtl.explain.examples.Explained") -> dict[str, Any]:
    names = opened.stats.label_names
    label = names[each.output] if names else f"value{each.output}"
    return {"class": label, "index": each.output, "value": float(each.predictions[each.output])}


Write = Callable[[dict[str, Any], "jtl.explain.examples.Explained"], dict[str, Any]]


def _sink(out: str, holds: str) -> Callable[..., Any]:
    """Return what writes explanations of examples of that kind to a path of that ending.

    Raises:
        UserError: nothing does, or it cannot be written there.
    """
    ending = Path(out).suffix.lower()
    known = SINKS[holds]
    if ending not in known:
        endings = ", ".join(each or "none (a folder)" for each in known)
        raise UserError(f"--out {out!r} ends in {ending!r}; for {holds}s expected one of {endings}")
    place = Path(out or DEFAULT_FOLDER)
    if not place.absolute().parent.is_dir():
        raise UserError(f"--out {out!r}: folder {str(place.parent)!r} is not there; make it first")
    if place.exists() and place.is_dir() == bool(ending):
        raise UserError(f"--out {out!r} is {'a folder' if ending else 'a file'} already; give another name")
    return known[ending]


@contextmanager
def _pictures(out: str, opened: "jtl.predictor.Predictor", method: Any) -> Iterator[Write]:
    """Write a picture an input into a folder, named after the input; a name twice is numbered."""
    from jtl.explain import pictures

    del opened, method
    folder, used = Path(out or DEFAULT_FOLDER), set[str]()
    folder.mkdir(exist_ok=True)

    def write(row: dict[str, Any], each: Any) -> dict[str, Any]:
        stem, number = Path(row["path"]).stem, 1
        name = stem
        while name in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name)
        path = folder / f"{name}.png"
        pictures.write(path, each.inputs, each.relevance)
        sys.stderr.write(f"{row['path']}: {row['class']} {row['value']:.4f}, see {path}\n")
        return {"picture": str(path)}

    yield write


@contextmanager
def _page(out: str, opened: "jtl.predictor.Predictor", method: Any) -> Iterator[Write]:
    """Show the first texts on the terminal, and write all to a page where one is named."""
    from jtl import files
    from jtl.explain import texts
    from jtl.report.tables import aligned

    shown: list[tuple[str, Any]] = []

    def write(row: dict[str, Any], each: Any) -> dict[str, Any]:
        found = texts.pieces(each.inputs, opened.preprocess, each.relevance)
        title = f"{row['class']} {row['value']:.4f}"
        if len(shown) < SHOWN_TEXTS:
            table = aligned([[title, "", ""], *texts.rows(found)], left=(0, 2))
            sys.stderr.write(f"{table}\n\n")
        shown.append((title, found))
        return {"tokens": [piece._asdict() for piece in found]}

    yield write
    if len(shown) > SHOWN_TEXTS and not out:
        sys.stderr.write(f"{len(shown) - SHOWN_TEXTS} more texts are not shown; --out FILE.html has all\n")
    if out:
        files.replace_text(Path(out), texts.page(shown, is_signed=method.is_signed, method=method.source))
        sys.stderr.write(f"wrote {out}\n")


@contextmanager
def _arrays(out: str, opened: "jtl.predictor.Predictor", method: Any) -> Iterator[Write]:
    """Write one .npz: relevance [examples, …], classes, names; texts padded with zeros to the longest."""
    import numpy as np

    from jtl import files

    del opened, method
    found: list[Any] = []
    rows: list[dict[str, Any]] = []

    def write(row: dict[str, Any], each: Any) -> dict[str, Any]:
        found.append(each)
        rows.append(row)
        return {}

    yield write
    if not found:
        return
    longest = [max(sizes) for sizes in zip(*(each.relevance.shape for each in found), strict=True)]
    padded = [
        np.pad(
            each.relevance,
            [(0, full - size) for full, size in zip(longest, each.relevance.shape, strict=True)],
        )
        for each in found
    ]
    named = {name: np.array([row.get(name, "") for row in rows]) for name in rows[0]}
    values: dict[str, Any] = {"relevance": np.stack(padded), **named}
    if not isinstance(found[0].inputs, dict):
        values["inputs"] = np.stack([each.inputs for each in found])
    with files.replaced(Path(out)) as part, part.open("wb") as stream:
        np.savez(stream, **values)
    sys.stderr.write(f"wrote {out}: {', '.join(values)} of {len(found)} examples\n")


# By what the examples are, and the ending of --out.
SINKS: dict[str, dict[str, Callable[..., Any]]] = {
    "image": {FOLDER: _pictures, ARRAYS: _arrays},
    "text": {FOLDER: _page, PAGE: _page, ARRAYS: _arrays},
}


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        run_folder=args.run,
        weights=args.weights,
        inputs=args.inputs,
        texts=args.text,
        method=args.method,
        class_name=args.class_name,
        batch_size=args.batch_size,
        out=args.out,
        overrides=overrides,
    )
    show(args, result)
    predict.check_readable(result)
    say_next(*_following(args, overrides), page=_looked_at(args, result))
    return 0


def _following(args: argparse.Namespace, overrides: Overrides) -> list[list[str]]:
    """Return the commands that come next: the arrays themselves, and what else can be asked of the model."""
    model, settings = model_words(args), override_words(overrides)
    examples = [*args.inputs, *(f"--text={text}" for text in args.text)]
    examples = examples if len(examples) <= predict.MAX_REPEATED else ["FILES"]
    is_array = Path(args.out).suffix.lower() == ARRAYS
    arrays = ["jtl", "explain", *model, *examples, *settings, "--out", f"relevance{ARRAYS}"]
    return [
        *([] if is_array else [arrays]),
        ["jtl", "predict", *model, *examples, *settings],
        *([["jtl", "report", args.run]] if args.run else []),
    ]


def _looked_at(args: argparse.Namespace, result: dict[str, Any]) -> str:
    """Return the page or the first picture that was written, "" where none was."""
    ((_, rows),) = ((name, value) for name, value in result.items() if name not in predict.ABOUT)
    first = next((row["picture"] for row in rows if "picture" in row), "")
    return args.out if Path(args.out).suffix.lower() == PAGE else first


VERB = Verb("show what of an image or text a class hangs on", add_arguments, _command)
