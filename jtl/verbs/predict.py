"""Prediction on images: the verb `jtl predict`."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl import predictor
from jtl.data import images
from jtl.errors import UserError
from jtl.report import tables
from jtl.training import config, sharding
from jtl.training.evaluate import batches_of
from jtl.training.state import params_for_evaluation
from jtl.training.step import predict as forward

SHOWN_DIGITS = 4
DEVICE_FIELDS = ("image",)


class Request(NamedTuple):
    """What `jtl predict` was asked: a run folder or weights, images, and how many classes of each to show.

    `classes` are names, separated by commas or a line each in the file of that path: of the weights' outputs,
    or where they have none (CLIP, SigLIP), of the classes of a zero-shot head.
    """

    run_folder: str | None
    weights: str | None
    images: tuple[str, ...]
    classes: str
    top: int
    batch_size: int
    out: str
    overrides: list[tuple[str, str]]


def run(request: Request) -> dict[str, Any]:
    """Predict each image; print a table to stderr and return one JSON-ready result.

    Raises:
        UserError: model and images cannot be had. Single images that cannot be read have an "error" instead.
    """
    if request.top < 1:
        raise UserError(f"--top is {request.top}; expected 1 or more")
    write = _writer(request.out)
    found = predictor.of_run(request.run_folder) if request.run_folder else _of_weights(request)
    settings = config.with_overrides(found.settings, request.overrides)
    ready = predictor.ready(settings, found.stats)
    source = images.open_images(request.images, ready.built.parts.preprocess.num_channels)
    rows = list(_rows(ready, source, request, settings, found.stats.label_names))
    if write is not None:
        write(rows)
    sys.stderr.write(tables.aligned(_table(rows), left=(0, 1)) + "\n")
    return {"model": request.run_folder or request.weights, "images": rows}


def check_readable(result: dict[str, Any]) -> None:
    """Raise UserError if an image of the result could not be read."""
    rows = result["images"]
    if faults := [row["error"] for row in rows if "error" in row]:
        raise UserError(
            f"{len(faults)} of {len(rows)} images cannot be read (the others are predicted): {faults[0]}"
        )


def ranked(values: np.ndarray, label_names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return the `top` classes by probability; without class names, the values in their order.

    >>> ranked(np.array([0.1, 0.7, 0.2]), ("ant", "bee", "cow"), 1)
    [{'label': 'bee', 'index': 1, 'value': 0.7}]
    """
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
    ready: predictor.Ready,
    source: images.Images,
    request: Request,
    settings: config.Config,
    label_names: tuple[str, ...],
) -> Iterator[dict[str, Any]]:
    parts = ready.built.parts

    @jax.jit
    def predictions(state: Any, batch: Any) -> jax.Array:
        inputs = on_device.normalise(batch["image"], parts.preprocess)
        outputs = forward(parts, params_for_evaluation(state), state.model_state, inputs)
        return parts.task.predictions(outputs.logits)

    batches = batches_of(
        source, parts.preprocess, batch_size=request.batch_size, mesh=ready.mesh, settings=settings.input
    )
    for batch in batches:
        on_device = sharding.put_batch({name: batch[name] for name in DEVICE_FIELDS}, ready.mesh)
        values = np.asarray(predictions(ready.state, on_device))
        for row in np.flatnonzero(batch["mask"]):
            index = int(batch["id"][row])
            path = source.describe(index)
            if batch["label"][row] == images.UNREADABLE:
                yield {"path": path, "error": source.fault(index)}
            else:
                yield {"path": path, "predictions": ranked(values[row], label_names, request.top)}


def _of_weights(request: Request) -> predictor.Trained:
    assert request.weights is not None, "the command line takes a run or weights"
    found = predictor.of_weights(request.weights, needs_head=not request.classes)
    if request.classes and not found.stats.label_names:
        settings, names = predictor.zero_shot_settings(request.weights), class_names(request.classes)
        return predictor.Trained(settings, predictor.label_stats(settings, names))
    if request.classes:
        return predictor.with_names(found, class_names(request.classes))
    names = predictor.imagenet_names()
    if predictor.has_names(found):
        return found
    if len(found.stats.label_names) == len(names):
        sys.stderr.write("1000 outputs without names: shown as those of ImageNet-1k\n")
        return predictor.with_names(found, names)
    sys.stderr.write(f"{request.weights} brings no class names: shown are indices; --classes names them\n")
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
