"""The verb `jtl export`: a run or pretrained weights as what other programs load, compared with it."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError, nearest
from jtl.verbs import given
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

NUM_EXAMPLES = 64
# What hubs take as it is.
HUB = "hub-folder"
SPLITS_BY_PREFERENCE = ("val", "test", "train")
MEBI = 2**20
# Kernels of one vendor (cuDNN) would be of no use to the others.
PORTABLE = {"attention": "xla"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_model(parser)
    parser.add_argument(
        "--to",
        required=True,
        metavar="KIND",
        help="stablehlo, onnx, saved_model, timm, huggingface or hub-folder",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument(
        "--data",
        default="",
        metavar="PATH",
        help="examples to compare on (default: the run's validation set)",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=NUM_EXAMPLES,
        metavar="N",
        help=f"how many of them, evenly spaced; 0: all (default: {NUM_EXAMPLES})",
    )
    parser.add_argument(
        "--normalised", action="store_true", help="the program takes inputs that are normalised already"
    )
    parser.add_argument(
        "--int8", action="store_true", help="keep kernels as int8, if the classes stay the same"
    )


def run(
    *,
    run_folder: str = "",
    weights: str = "",
    to: str,
    out: str,
    data: str = "",
    num_examples: int = NUM_EXAMPLES,
    is_normalised: bool = False,
    is_int8: bool = False,
    batch_size: int = BATCH_SIZE,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Write an artefact; print lines to stderr and return one JSON-ready result.

    Raises:
        UserError: the model cannot be had or written so, or the artefact does not say what the model says.
    """
    from jtl import predictor
    from jtl.export import TARGETS, Job, write
    from jtl.training import config

    if to not in TARGETS:
        raise UserError(
            f"--to is {to!r}; expected one of {', '.join(TARGETS)}; nearest: {nearest(to, TARGETS)}"
        )
    check_at_least("--examples", num_examples, 0)
    check_at_least("--batch-size", batch_size)
    write.check_new(Path(out))
    if not run_folder and not data:
        raise UserError("--weights needs --data: examples on which the artefact is compared with the model")
    found = given.of_model(run_folder, weights, overrides=overrides)
    found = found._replace(settings=config.with_overrides(found.settings, overrides))
    source, called = _source(found, data)
    opened = predictor.open(_portable(found))
    sys.stderr.write(predictor.described(opened) + "\n")
    job = Job(opened, run_folder or weights, is_normalised, is_int8)
    source = write.some_of(source, num_examples)
    done = write.export(job, to, Path(out), source, data=called, batch_size=min(batch_size, len(source)))
    for line in (*done.notes, f"compared on {len(source)} of {called}: {done.parity.described()}"):
        sys.stderr.write(f"{line}\n")
    sys.stderr.write(
        f"wrote {out} ({done.num_bytes / MEBI:.1f} MiB); it says how it is used: {out}/README.md\n"
    )
    return {"model": run_folder or weights, **write.as_json(done, to)}


def _portable(found: "jtl.predictor.Trained") -> "jtl.predictor.Trained":
    """Return the model computing as every kind of device can, whichever this one is."""
    from dataclasses import replace

    model = found.settings.model
    fields = {name: value for name, value in PORTABLE.items() if hasattr(model, name)}
    return found._replace(settings=replace(found.settings, model=replace(model, **fields)))


def _source(found: "jtl.predictor.Trained", data: str) -> "tuple[jtl.data.Source, str]":
    """Return the readable examples to compare on, labels or not, and what they are called."""
    from dataclasses import replace

    from jtl.data import SOURCES, Labels, files, preflight, tell
    from jtl.data.contract import NO_LABELS
    from jtl.training import build, config

    settings = found.settings
    kind = config.input_of(settings.model)
    if data and not tell.is_set(data, kind):
        source: Any = files.unlabelled([data], kind)
        preflight.check_kind(source, kind)
        return source, Path(data).name
    if data:
        settings = build.with_data(settings, data)
        splits = SOURCES[settings.data.name].open(replace(settings.data, path=data), Labels(NO_LABELS))
    else:
        splits = build.open_splits(settings, found.stats)
    split = next((each for each in SPLITS_BY_PREFERENCE if each in splits), next(iter(splits)))
    checked = preflight.inspect({split: splits[split]}, settings.data, kind)
    name = Path(settings.data.path).name or settings.data.name
    return checked.splits[split], f"split {split!r} of {name}"


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        run_folder=args.run,
        weights=args.weights,
        to=args.to,
        out=args.out,
        data=args.data,
        num_examples=args.examples,
        is_normalised=args.normalised,
        is_int8=args.int8,
        batch_size=args.batch_size,
        overrides=overrides,
    )
    show(args, result)
    say_next(*_following(args, overrides), page=str(Path(args.out) / "README.md"))
    return 0


def _following(args: argparse.Namespace, overrides: Overrides) -> list[list[str]]:
    """Return the commands that come next: the artefact used, and one for a hub."""
    data = ["--data", args.data] if args.data else []
    same = [*model_words(args), *data, *override_words(overrides)]
    shared = ["jtl", "export", *same, "--to", HUB, "--out", f"{args.out.rstrip('/')}-{HUB}"]
    return [
        ["jtl", "predict", "--artefact", args.out, args.data or "FILES"],
        ["jtl", "serve", "--artefact", args.out],
        *([] if args.to == HUB else [shared]),
    ]


VERB = Verb("write a run or weights as what other programs load", add_arguments, _command)
