"""The verb `jtl predict`: what a model says of images that need no labels."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs.contract import BATCH_SIZE, Overrides, Verb, add_model, show

if TYPE_CHECKING:
    import numpy

    import jtl.data.images
    import jtl.predictor

TOP = 5
SHOWN_DIGITS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_model(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAMES",
        help="names of the outputs, or for CLIP and SigLIP the classes to tell apart: a,b,c or a file",
    )
    parser.add_argument("--top", type=int, default=TOP, metavar="K", help="classes to show of each image")
    parser.add_argument("--out", default="", metavar="FILE", help="also write a .csv or .jsonl file")


def run(
    *,
    run_folder: str = "",
    weights: str = "",
    images: Sequence[str],
    classes: str = "",
    top: int = TOP,
    batch_size: int = BATCH_SIZE,
    out: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Predict each image; print a table to stderr and return one JSON-ready result.

    `classes` are names, separated by commas or a line each in the file of that path: of the weights' outputs,
    or where they have none (CLIP, SigLIP), of the classes of a zero-shot head. `top` is how many classes are
    shown of each.

    Raises:
        UserError: model and images cannot be had. Single images that cannot be read have an "error" instead.
    """
    from jtl import predictor
    from jtl.data import images as unlabelled
    from jtl.report import tables
    from jtl.training import config

    if top < 1:
        raise UserError(f"--top is {top}; expected 1 or more")
    write = _writer(out)
    found = predictor.of_run(run_folder) if run_folder else _of_weights(weights, classes)
    opened = predictor.open(found._replace(settings=config.with_overrides(found.settings, overrides)))
    source = unlabelled.open_images(images, opened.preprocess.num_channels)
    rows = list(_rows(opened, source, batch_size, top))
    if write is not None:
        write(rows)
    sys.stderr.write(tables.aligned(_table(rows), left=(0, 1)) + "\n")
    return {"model": run_folder or weights, "images": rows}


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        run_folder=args.run,
        weights=args.weights,
        images=args.images,
        classes=args.classes,
        top=args.top,
        batch_size=args.batch_size,
        out=args.out,
        overrides=overrides,
    )
    show(args, result)
    check_readable(result)
    return 0


def check_readable(result: dict[str, Any]) -> None:
    """Raise UserError if an image of the result could not be read."""
    rows = result["images"]
    if faults := [row["error"] for row in rows if "error" in row]:
        raise UserError(
            f"{len(faults)} of {len(rows)} images cannot be read (the others are predicted): {faults[0]}"
        )


def ranked(values: "numpy.ndarray", label_names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return the `top` classes by probability; without class names, the values in their order.

    >>> import numpy as np
    >>> ranked(np.array([0.1, 0.7, 0.2]), ("ant", "bee", "cow"), 1)
    [{'label': 'bee', 'index': 1, 'value': 0.7}]
    """
    import numpy as np

    order = np.argsort(-values, kind="stable")[:top] if label_names else range(len(values))
    names = label_names or [f"value{index}" for index in range(len(values))]
    return [{"label": names[index], "index": int(index), "value": float(values[index])} for index in order]


def class_names(text: str) -> tuple[str, ...]:
    """Return class names separated by commas, or the lines of the file of that path.

    >>> class_names("ant, bee")
    ('ant', 'bee')

    Raises:
        UserError: the file is no text.
    """
    path = Path(text).expanduser()
    if "," not in text and not path.is_file():
        raise UserError(f"--classes {text!r} is no file; expected one, with a name a line, or names: a,b,c")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except UnicodeDecodeError as error:
        raise UserError(f"--classes {text!r} is no text; expected the name of a class a line") from error
    return tuple(name.strip() for name in lines if name.strip())


def _rows(
    opened: "jtl.predictor.Predictor", source: "jtl.data.images.Images", batch_size: int, top: int
) -> Iterator[dict[str, Any]]:
    import numpy as np

    from jtl import predictor
    from jtl.data import images

    for batch, values in predictor.predictions(opened, source, batch_size):
        for row in np.flatnonzero(batch["mask"]):
            index = int(batch["id"][row])
            path = source.describe(index)
            if batch["label"][row] == images.UNREADABLE:
                yield {"path": path, "error": source.fault(index)}
            else:
                yield {"path": path, "predictions": ranked(values[row], opened.stats.label_names, top)}


def _of_weights(weights: str, classes: str) -> "jtl.predictor.Trained":
    from jtl import predictor

    found = predictor.of_weights(weights, needs_head=not classes)
    if classes and not found.stats.label_names:
        return predictor.of_classes(weights, class_names(classes))
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


def _table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return a line for each image and prediction; the path on its first alone."""
    table = [["image", "prediction", ""]]
    for row in rows:
        if "error" in row:
            table.append([row["path"], "cannot be read", ""])
        for rank, each in enumerate(row.get("predictions", ())):
            table.append(["" if rank else row["path"], each["label"], f"{each['value']:.{SHOWN_DIGITS}f}"])
    return table


def _writer(out: str) -> Callable[[Sequence[dict[str, Any]]], None] | None:
    """Return what writes the rows to a path of that ending, None for no path.

    Raises:
        UserError: the ending is none of those known, or its folder is not there.
    """
    if not out:
        return None
    path = Path(out)
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"--out {out!r} ends in {path.suffix!r}; expected one of {', '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise UserError(f"--out {out!r}: folder {str(path.parent)!r} is not there; make it first")
    write = WRITERS[path.suffix.lower()]
    return lambda rows: write(path, rows)


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "rank", "label", "index", "value", "error"))
        for row in rows:
            for rank, each in enumerate(row.get("predictions", ())):
                writer.writerow((row["path"], rank + 1, each["label"], each["index"], each["value"], ""))
            if "error" in row:
                writer.writerow((row["path"], "", "", "", "", row["error"]))


def _write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Sequence[dict[str, Any]]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
}
VERB = Verb("classify images by a run or pretrained weights", add_arguments, _command)
