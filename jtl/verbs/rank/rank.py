"""The verb `jtl rank`: which pretrained weights suit labelled data, from features alone.

Each candidate runs forward once over the examples; all that is said of it is computed from what its layers
gave. The examples are cut into folds by content, the same for all candidates, so that differences are paired.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl import files
from jtl.errors import UserError
from jtl.verbs.contract import (
    Overrides,
    Verb,
    add_batch_size,
    check_at_least,
    out_folder,
    override_words,
    say_next,
    show,
)
from jtl.verbs.rank.examples import MIN_FOLDS, Sample

if TYPE_CHECKING:
    from jtl.verbs.rank.candidates import Candidate
    from jtl.verbs.rank.examples import Examples
    from jtl.verbs.rank.results import Measured

FOLDS, NUM_EXAMPLES, BATCH_SIZE = 5, 1000, 32
RESULT, PICTURE = "rank.json", "rank.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("data", metavar="DATA", help="a labelled folder, table, .npz or .tar")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="what to rank; SPEC:SECTION.NAME=VALUE;… for settings of one alone",
    )
    parser.add_argument("--catalogue", default="", metavar="NAME", help="a short list by name: small")
    parser.add_argument("--folds", type=int, default=FOLDS, metavar="K", help=f"held out in turn ({FOLDS})")
    parser.add_argument(
        "--examples",
        type=int,
        default=NUM_EXAMPLES,
        metavar="N",
        help=f"look at so many ({NUM_EXAMPLES:,}; 0: all)",
    )
    parser.add_argument("--split", default="", help="train, val or test (default: train)")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="rank the others where weights cannot be read"
    )
    parser.add_argument(
        "--no-estimate", action="store_true", help="leave out time and memory of fine-tuning, which compile"
    )
    parser.add_argument("--out", default="", metavar="FOLDER", help=f"where {RESULT} and {PICTURE} go")
    add_batch_size(parser)
    parser.set_defaults(batch_size=BATCH_SIZE)
    parser.epilog = "Numbers in place of classes: --config.task.name=regression"


def run(
    *,
    data: str,
    weights: Sequence[str] = (),
    catalogue: str = "",
    folds: int = FOLDS,
    asked: Sample = Sample(num_examples=NUM_EXAMPLES),  # noqa: B008  a named tuple cannot change
    skips_unreadable: bool = False,
    estimates: bool = True,
    batch_size: int = BATCH_SIZE,
    out: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Rank weights on labelled data; print tables to stderr and return one JSON-ready result.

    Raises:
        UserError: data, labels and folds do not go together, or a candidate cannot be read.
    """
    from jtl.report.bootstrap import Settings
    from jtl.verbs.rank import candidates, plot, results, tables

    check_at_least("--batch-size", batch_size)
    check_at_least("--folds", folds, MIN_FOLDS)
    check_at_least("--examples", asked.num_examples, 0)
    folder = out_folder(out) if out else None
    listed = candidates.read(weights, catalogue, data)
    ranking = _Ranking(data, folds, asked, batch_size, overrides, estimates)
    found, skipped = [], []
    for each in listed:
        try:
            found.append(ranking.measured(each))
        except UserError as error:
            if not skips_unreadable:
                raise
            skipped.append({"weights": each.spec, "why": str(error)})
            _say(f"skipped {each.label}: {error}")
    if not found:
        raise UserError(f"none of {len(listed)} weights can be ranked; the first: {skipped[0]['why']}")
    examples = ranking.examples
    assert examples is not None, "what was measured was measured on examples"
    metric = results.METRICS[examples.label_kind]
    records = results.compared(found, examples.labels, Settings())
    sentence = results.sentence(records, metric, folds, len(examples.labels))
    _say(f"\n{metric} on held-out examples:\n{tables.tables(records, metric)}\n\n{sentence}")
    result = {
        "data": data,
        "split": examples.split,
        "num_examples": len(examples.labels),
        "label_kind": examples.label_kind,
        "class_names": list(examples.class_names),
        "folds": folds,
        "metric": metric,
        "recommended": records[0]["weights"],
        "sentence": sentence,
        "candidates": records,
        "skipped": skipped,
        "notes": list(examples.notes),
    }
    if folder is not None:
        import json

        plot.plot(records, metric, folder / PICTURE)
        files.replace_text(folder / RESULT, json.dumps(result, indent=1) + "\n")
    return result


class _Ranking:
    """Measures one candidate after the other on the same examples and folds, which the first one opens."""

    def __init__(
        self,
        data: str,
        folds: int,
        asked: Sample,
        batch_size: int,
        overrides: Overrides,
        estimates: bool,
    ) -> None:
        self._data, self._num_folds, self._asked = data, folds, asked
        self._batch_size, self._overrides, self._estimates = batch_size, overrides, estimates
        self.examples: Examples | None = None

    def measured(self, each: "Candidate") -> "Measured":
        """Run a candidate forward and compute everything of it."""
        from jtl import predictor
        from jtl.data import preflight
        from jtl.verbs import observed
        from jtl.verbs.rank import candidates, cost, results

        opened = candidates.opened(each, self._data, self._overrides)
        if self.examples is None:
            self._open(opened)
        examples = self.examples
        assert examples is not None, "the first candidate opens the examples"
        preflight.check_kind(examples.source, opened.input)
        opened, lines = predictor.fitted(opened, examples.facts)
        _say("\n".join([f"\n{each.label}", *lines, predictor.described(opened)]))
        seen = observed.observed(opened, examples.source, self._batch_size, _say, each.label)
        found = results.measured(each, seen, examples.labels, examples.label_kind, self._folds)
        if not self._estimates:
            return found
        rate = observed.rate(opened, examples.source, self._batch_size)
        needs = cost.cost(each, self._data, self._overrides, rate, len(examples.labels))
        return found._replace(cost=needs)

    def _open(self, opened: Any) -> None:
        from jtl.data.labels import strata
        from jtl.data.subset import choose_folds, fingerprints
        from jtl.verbs.rank import examples as chosen

        found = chosen.examples(opened, self._data, self._asked, self._overrides, self._num_folds)
        keys = fingerprints(found.source)
        self._folds = choose_folds(keys, strata(found.labels, found.class_names), self._num_folds)
        self.examples = found


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        data=args.data,
        weights=args.weights,
        catalogue=args.catalogue,
        folds=args.folds,
        asked=Sample(args.split, args.examples),
        skips_unreadable=args.skip_unreadable,
        estimates=not args.no_estimate,
        batch_size=args.batch_size,
        out=args.out,
        overrides=overrides,
    )
    show(args, result)
    first = result["candidates"][0]
    own, given = (
        override_words([(name, str(value)) for name, value in first["settings"].items()]),
        override_words(overrides),
    )
    words = ["--weights", first["weights"], *own, *given]
    say_next(
        ["jtl", "train", args.data, *words],
        ["jtl", "train", args.data, *words, "--strategy", "probe", "--config.train.is_augmented=False"],
        page=str(Path(args.out) / PICTURE) if args.out else "",
    )
    return 0


VERB = Verb("say which pretrained weights suit labelled data, without training", add_arguments, _command)
