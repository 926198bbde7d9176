"""What `jtl evaluate` computes of every example: intervals, rankings, operating points, and their file."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jtl.errors import UserError
from jtl.verbs.contract import check_at_least
from jtl.verbs.rows import check_writable

if TYPE_CHECKING:
    import jtl.data
    import jtl.metrics
    import jtl.predictor
    import jtl.report.scores

RESAMPLES, FILES = 1000, (".csv", ".parquet")


class Extras(NamedTuple):
    """What is asked beside the task's own numbers.

    `at_recall` and `at_precision` (0: no wish) are what an operating point is to reach; `views` are averaged
    over; `resamples` sets are drawn for intervals, by `seed`.
    """

    at_recall: float = 0.0
    at_precision: float = 0.0
    views: tuple[str, ...] = ()
    resamples: int = RESAMPLES
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may be asked."""
    parser.add_argument(
        "--at-recall", type=float, default=0.0, metavar="R", help="operating points of recall R or more"
    )
    parser.add_argument(
        "--at-precision", type=float, default=0.0, metavar="P", help="operating points of precision P or more"
    )
    parser.add_argument(
        "--tta", default="", metavar="VIEWS", help="average predictions over views of each example, too: flip"
    )
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, metavar="B", help="sets drawn for intervals (0: none)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sets that are drawn")


def of_arguments(args: argparse.Namespace) -> Extras:
    """Return what is asked on the command line."""
    views = tuple(filter(None, (view.strip() for view in args.tta.split(","))))
    return Extras(args.at_recall, args.at_precision, views, args.resamples, args.seed)


def check(asked: Extras, out: str) -> None:
    """Check what is asked, before anything is computed.

    Raises:
        UserError: a number is out of its range, two exclude each other, or the file cannot be written.
    """
    check_at_least("--resamples", asked.resamples, 0)
    check_at_least("--seed", asked.seed, 0)
    for flag, value in (("--at-recall", asked.at_recall), ("--at-precision", asked.at_precision)):
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{flag} is {value:g}; expected a share above 0, up to 1, such as 0.95")
    if asked.at_recall and asked.at_precision:
        raise UserError("--at-recall and --at-precision are both given; expected one of them")
    if is_file(out):
        check_writable(out, FILES)


def is_file(out: str) -> bool:
    """Return whether `--out` names a file for the predictions, and no folder for the numbers."""
    return Path(out).suffix.lower() in FILES and not Path(out).is_dir()


def measured(
    opened: "jtl.predictor.Predictor",
    found: "jtl.metrics.Summary",
    split: str,
    asked: Extras,
    validation: "Callable[[], jtl.metrics.Summary | None]",
) -> "tuple[jtl.report.scores.Scored, jtl.report.scores.Scores] | None":
    """Return every example and what was found of them; None where the model's outputs were not kept.

    `validation` measures the examples that thresholds are chosen on, where some are to be; None: on those of
    the split itself.

    Raises:
        UserError: operating points are asked of labels that are no classes.
    """
    from jtl.report.bootstrap import Settings
    from jtl.report.operating import Wanted
    from jtl.report.scores import POSITIVES
    from jtl.training import scored

    kind, task = scored.kind_of(opened.settings.task.name), opened.task
    assert task is not None, "what is measured has a task"
    wanted = None
    if asked.at_recall or asked.at_precision:
        wanted = Wanted("recall" if asked.at_recall else "precision", asked.at_recall or asked.at_precision)
    if wanted is not None and kind not in POSITIVES:
        raise UserError(
            f"--at-{wanted.metric} asks for an operating point of classes; task "
            f"{opened.settings.task.name!r} has none"
        )
    examples = scored.examples(found, task, opened.settings.task, opened.stats)
    if examples is None:
        return None
    chosen_on = {split: examples}
    if (wanted is not None or kind in scored.BY_F1) and split != "val":
        others = validation()
        other = None if others is None else scored.examples(others, task, opened.settings.task, opened.stats)
        chosen_on |= {} if other is None else {"val": other}
    limits = scored.limits_of(split, chosen_on, kind, wanted)
    settings = Settings(asked.resamples, asked.seed)
    return examples, scored.measured(examples, kind, settings, limits)


def write_predictions(
    out: str,
    opened: "jtl.predictor.Predictor",
    examples: "jtl.report.scores.Scored",
    source: "jtl.data.Source",
) -> None:
    """Write what was predicted of every example of a split."""
    from jtl.report import predictions
    from jtl.training import scored

    kind = scored.kind_of(opened.settings.task.name)
    names = (source.describe(index) for index in range(len(source)))
    predictions.write(Path(out), predictions.columns(kind, examples, names))
