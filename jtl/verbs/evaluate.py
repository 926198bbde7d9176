"""The verb `jtl evaluate`: measure a run or pretrained weights on labelled data."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError, nearest
from jtl.verbs.contract import BATCH_SIZE, Overrides, Verb, add_model, check_at_least, show

if TYPE_CHECKING:
    import jtl.data
    import jtl.predictor

SPLITS_BY_PREFERENCE = ("test", "val", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_model(parser)
    parser.add_argument(
        "--data", default="", metavar="PATH", help="folder, table or .npz (default: the run's own data)"
    )
    parser.add_argument(
        "--split", default="", help="train, val or test (default: test, else val, else all there is)"
    )
    parser.add_argument(
        "--out", default="", metavar="FOLDER", help="also write metrics.json and confusion.png there"
    )
    parser.add_argument(
        "--zero-shot", action="store_true", help="make the head of the data's class names (CLIP, SigLIP)"
    )
    parser.epilog = "--config.SECTION.NAME=VALUE changes a setting, such as --config.data.max_unreadable=5"


def run(
    *,
    run_folder: str = "",
    weights: str = "",
    is_zero_shot: bool = False,
    data: str = "",
    split: str = "",
    batch_size: int = BATCH_SIZE,
    out: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Evaluate a run or pretrained weights; print tables to stderr and return one JSON-ready result.

    With `is_zero_shot` the head of CLIP or SigLIP weights is made of the data's class names.

    Raises:
        UserError: run, weights, data or labels do not fit together.
    """
    from jtl import predictor
    from jtl.data import preflight
    from jtl.report import summary, tables
    from jtl.training import config, evaluate

    check_at_least("--batch-size", batch_size)
    if is_zero_shot:
        trained, splits = _zero_shot(weights, data, overrides)
    else:
        trained, splits = _with_head(run_folder, weights, data, overrides)
    split = _chosen_split(split, splits)
    checked = preflight.inspect(
        {split: splits[split]}, trained.settings.data, config.input_of(trained.settings.model)
    )
    source = checked.splits[split]
    for line in checked.lines:
        sys.stderr.write(f"{line}\n")
    opened, lines = predictor.fitted(predictor.open(trained), checked.facts)
    said = "\n".join([*lines, predictor.described(opened)])
    sys.stderr.write(said + "\n")
    found = predictor.measure(opened, source, batch_size)
    names = opened.stats.label_names
    sys.stderr.write(tables.final_table(found, names) + "\n")
    result = {
        "model": run_folder or weights,
        "data": opened.settings.data.path or opened.settings.data.name,
        "split": split,
        "num_examples": len(source),
        "metrics": found.scalars,
        "per_class": {name: values.tolist() for name, values in found.per_class.items()},
        "label_names": list(names),
        "notes": [*checked.lines, *said.splitlines()],
    }
    if out:
        evaluate.write(Path(out), result, found, names)
    return summary.plain(result)


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        run_folder=args.run,
        weights=args.weights,
        is_zero_shot=args.zero_shot,
        data=args.data,
        split=args.split,
        batch_size=args.batch_size,
        out=args.out,
        overrides=overrides,
    )
    show(args, result)
    return 0


def _with_head(
    run_folder: str, weights: str, data: str, overrides: Overrides
) -> "tuple[jtl.predictor.Trained, dict[str, jtl.data.Source]]":
    """Return a model with the head it has, and the splits of the data, read with its classes."""
    from jtl import predictor
    from jtl.training import build, config

    if not run_folder and not data:
        raise UserError("--weights needs --data: a folder, a table or a .npz file to evaluate on")
    found = (
        predictor.of_run(run_folder)
        if run_folder
        else predictor.of_weights(weights, config.weights_of(overrides))
    )
    if not run_folder and not predictor.has_names(found):
        sys.stderr.write(f"{weights} brings no class names: labels are the indices of its outputs\n")
    settings = build.with_data(found.settings, data) if data else found.settings
    found = found._replace(settings=config.with_overrides(settings, overrides))
    return found, build.open_splits(found.settings, found.stats)


def _zero_shot(
    weights: str, data: str, overrides: Overrides
) -> "tuple[jtl.predictor.Trained, dict[str, jtl.data.Source]]":
    """Return a model whose head is made of the classes of the data, and the data's splits."""
    from jtl import predictor
    from jtl.training import build, config

    if not weights or not data:
        raise UserError("--zero-shot needs --weights of CLIP or SigLIP, and --data whose classes have names")
    settings = predictor.zero_shot_settings(weights, config.weights_of(overrides))
    settings = build.with_data(settings, data)
    settings = config.with_overrides(settings, overrides)
    splits = build.open_splits(settings)
    stats = build.label_stats(settings, next(iter(splits.values())))
    return predictor.Trained(settings, stats), splits


def _chosen_split(name: str, splits: "Mapping[str, jtl.data.Source]") -> str:
    if name and name not in splits:
        raise UserError(f"--split {name!r} is not in the data; nearest: {nearest(name, splits)}")
    return name or next(each for each in SPLITS_BY_PREFERENCE if each in splits)


VERB = Verb("measure a run, or pretrained weights, on labelled data", add_arguments, _command)
