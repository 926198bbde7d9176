"""The verb `jtl evaluate`: measure a run or pretrained weights on labelled data."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError, nearest
from jtl.verbs import scoring
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
from jtl.verbs.given import class_names, with_head
from jtl.verbs.scoring import Extras

if TYPE_CHECKING:
    import jtl.data
    import jtl.metrics
    import jtl.predictor
    import jtl.report.scores

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
        "--out",
        default="",
        metavar="PATH",
        help="a folder for metrics.json and confusion.png, or a .csv or .parquet file for every prediction",
    )
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAMES",
        help="names of the outputs of --weights, in their order: a,b,c or a file",
    )
    parser.add_argument(
        "--zero-shot", action="store_true", help="make the head of the data's class names (CLIP, SigLIP)"
    )
    scoring.add_arguments(parser)
    parser.epilog = "--config.SECTION.NAME=VALUE changes a setting, such as --config.data.max_unreadable=5"


def run(
    *,
    run_folder: str = "",
    weights: str = "",
    is_zero_shot: bool = False,
    classes: str | Sequence[str] = "",
    data: str = "",
    split: str = "",
    batch_size: int = BATCH_SIZE,
    out: str = "",
    asked: Extras = Extras(),  # noqa: B008  a named tuple cannot change
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Evaluate a run or pretrained weights; print tables to stderr and return one JSON-ready result.

    With `is_zero_shot` the head of CLIP or SigLIP weights is made of the data's class names. `classes` are
    names, or as text what `jtl predict` takes. `out` is a folder for the numbers, or a file for every
    prediction.

    Raises:
        UserError: run, weights, data or labels do not fit together.
    """
    from jtl import predictor
    from jtl.data import preflight
    from jtl.report import evaluation, summary
    from jtl.training import config, evaluate

    check_at_least("--batch-size", batch_size)
    scoring.check(asked, out)
    if classes and (run_folder or is_zero_shot):
        raise UserError("--classes names the outputs of --weights; a run, or --zero-shot, has names already")
    names = class_names(classes) if isinstance(classes, str) else tuple(classes)
    if is_zero_shot:
        trained, splits = _zero_shot(weights, data, overrides)
    else:
        trained, splits = _opened(run_folder, weights, data, overrides, names)
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
    own = predictor.measure(opened, source, batch_size, asked.views)
    names = opened.stats.label_names
    validation = partial(_validation, opened, splits, batch_size, asked)
    beside = scoring.measured(opened, own, split, asked, validation)
    more = _told(own, beside, asked, names)
    result = {
        "model": run_folder or weights,
        "data": opened.settings.data.path or opened.settings.data.name,
        "split": split,
        "num_examples": len(source),
        "metrics": own.scalars,
        "per_class": {name: values.tolist() for name, values in own.per_class.items()},
        "label_names": list(names),
        "notes": [*checked.lines, *said.splitlines()],
        **more,
        **evaluation.confusions(own.confusion, names),
    }
    if out and scoring.is_file(out):
        _write_predictions(out, opened, beside, source)
    elif out:
        evaluate.write(Path(out), result, own, names)
    return summary.plain(result)


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        run_folder=args.run,
        weights=args.weights,
        is_zero_shot=args.zero_shot,
        classes=args.classes,
        data=args.data,
        split=args.split,
        batch_size=args.batch_size,
        out=args.out,
        asked=scoring.of_arguments(args),
        overrides=overrides,
    )
    show(args, result)
    say_next(*_following(args, overrides, result))
    return 0


def _following(args: argparse.Namespace, overrides: Overrides, result: Mapping[str, Any]) -> list[list[str]]:
    """Return the commands that come next: every prediction to a file, new examples, the run's report."""
    names = result["label_names"]
    made = ["--classes", ",".join(names)] if args.zero_shot and not any("," in name for name in names) else []
    classes = ["--classes", args.classes] if args.classes else made
    asked = ["--zero-shot"] if args.zero_shot else classes
    data = ["--data", args.data] if args.data else []
    model, settings = model_words(args), override_words(overrides)
    to_file = ["jtl", "evaluate", *model, *asked, *data, "--split", result["split"], *settings]
    predicted = ["jtl", "predict", *model, *classes, "FILES", *override_words(overrides, "data.")]
    return [
        *([] if args.out else [[*to_file, "--out", "predictions.csv"]]),
        predicted,
        *([["jtl", "report", args.run]] if args.run else []),
    ]


def _opened(
    run_folder: str, weights: str, data: str, overrides: Overrides, names: tuple[str, ...]
) -> "tuple[jtl.predictor.Trained, dict[str, jtl.data.Source]]":
    """Return a model with the head it has, and the splits of the data, read with its classes."""
    from jtl import predictor
    from jtl.training import build, config

    if not run_folder and not data:
        raise UserError("--weights needs --data: a folder, a table or a .npz file to evaluate on")
    found = predictor.of_run(run_folder) if run_folder else with_head(weights, names, overrides)
    if not run_folder and not predictor.has_names(found):
        sys.stderr.write(f"{weights} brings no class names: labels are the indices of its outputs\n")
    settings = build.with_data(found.settings, data) if data else found.settings
    found = found._replace(settings=config.with_overrides(settings, overrides))
    return found, build.open_splits(found.settings, found.stats)


def _validation(
    opened: "jtl.predictor.Predictor", splits: "Mapping[str, jtl.data.Source]", batch_size: int, asked: Extras
) -> "jtl.metrics.Summary | None":
    """Measure the validation split, which chooses thresholds; None without one."""
    from jtl import predictor
    from jtl.data import preflight

    if "val" not in splits:
        return None
    checked = preflight.inspect({"val": splits["val"]}, opened.settings.data, opened.input)
    return predictor.measure(opened, checked.splits["val"], batch_size, asked.views)


def _told(
    own: "jtl.metrics.Summary",
    beside: "tuple[jtl.report.scores.Scored, jtl.report.scores.Scores] | None",
    asked: Extras,
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Print the numbers with their intervals, and return what the result has of them beside the task's."""
    from jtl.report import evaluation, tables
    from jtl.report.bootstrap import Settings
    from jtl.training.evaluate import MAX_KEPT

    remarks = [f"predictions are means over the examples and {', '.join(asked.views)}"] if asked.views else []
    if beside is None:
        remarks.append(
            f"no intervals, AUROC or calibration: over {MAX_KEPT:,} outputs are not kept, or none are"
        )
        found, intervals, more = own, {}, {}
    else:
        more = evaluation.as_json(beside[1], Settings(asked.resamples, asked.seed))
        remarks = [*more["remarks"], *remarks]
        found, intervals = evaluation.with_scores(own, beside[1]), evaluation.bounds(beside[1])
    sys.stderr.write(tables.final_table(found, names, intervals=intervals) + "\n")
    if more.get("operating_points"):
        sys.stderr.write("\n" + evaluation.points_table(more["operating_points"]) + "\n")
    for line in remarks:
        sys.stderr.write(f"{line}\n")
    return {**more, "remarks": remarks}


def _write_predictions(
    out: str,
    opened: "jtl.predictor.Predictor",
    beside: "tuple[jtl.report.scores.Scored, jtl.report.scores.Scores] | None",
    source: "jtl.data.Source",
) -> None:
    if beside is None:
        raise UserError(
            f"--out {out!r}: the predictions are too many to be kept; evaluate a part of the data"
        )
    scoring.write_predictions(out, opened, beside[0], source)
    sys.stderr.write(f"{len(source):,} predictions: {out}\n")


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
