"""The verb `jtl few-shot`: how well features tell new classes by a few labelled examples of each.

Every candidate runs forward once; episodes are drawn from what it gave, the same for all candidates. The
interval of 95 % is over episodes, as is usual (mean ± 1.96 standard errors).
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jtl import files
from jtl.errors import UserError, counted, nearest
from jtl.verbs.contract import Overrides, Verb, add_batch_size, check_at_least, override_words, say_next, show
from jtl.verbs.features import OWN
from jtl.verbs.rows import check_writable

if TYPE_CHECKING:
    import numpy as np

    import jtl.data
    import jtl.data.episodes
    import jtl.predictor
    import jtl.verbs.rank.candidates

WAYS, SHOTS, QUERIES, EPISODES, BATCH_SIZE = 5, "1,5", 15, 600, 32
# Of a normal distribution: 95 % lie within so many standard errors.
QUANTILE = 1.959964


class Episodes(NamedTuple):
    """Which episodes are drawn: so many, of so many classes, once for each number of shots, by a seed."""

    ways: int = WAYS
    shots: tuple[int, ...] = (1, 5)
    queries: int = QUERIES
    num_episodes: int = EPISODES
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("data", metavar="DATA", help="a labelled folder, table, .npz or .tar")
    parser.add_argument(
        "--weights", nargs="+", required=True, metavar="SPEC", help="one or several, as jtl rank has them"
    )
    parser.add_argument("--ways", type=int, default=WAYS, metavar="N", help=f"classes an episode ({WAYS})")
    parser.add_argument("--shots", default=SHOTS, metavar="LIST", help=f"labelled examples a class ({SHOTS})")
    parser.add_argument(
        "--queries", type=int, default=QUERIES, metavar="N", help=f"examples to tell a class ({QUERIES})"
    )
    parser.add_argument("--episodes", type=int, default=EPISODES, metavar="N", help=f"({EPISODES})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the episodes (0)")
    parser.add_argument(
        "--split",
        default="",
        metavar="NAME",
        help="draw from one split alone, whose classes may be others than those of training (default: all)",
    )
    parser.add_argument(
        "--base",
        default="",
        metavar="PATH",
        help="examples of other classes, whose mean features are centred by (default: the labelled ones)",
    )
    parser.add_argument("--layer", default=OWN, metavar="NAME", help=f"such as block11 ({OWN})")
    parser.add_argument("--out", default="", metavar="FILE", help="a .json file for the result")
    add_batch_size(parser)
    parser.set_defaults(batch_size=BATCH_SIZE)


def run(
    *,
    data: str,
    weights: Sequence[str],
    asked: Episodes = Episodes(),  # noqa: B008  a named tuple cannot change
    split: str = "",
    base: str = "",
    layer: str = OWN,
    batch_size: int = BATCH_SIZE,
    out: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Measure every method on the episodes with the features of every candidate; return a JSON-ready result.

    Raises:
        UserError: a class is too small for an episode, there are too few classes, or weights and data do not
            go together.
    """
    from jtl.verbs.rank import candidates

    _check(asked, batch_size, out)
    rows: list[dict[str, Any]] = []
    names: tuple[str, ...] = ()
    for each in candidates.read(weights, "", data):
        opened = candidates.opened(each, data, overrides)
        features, labels, names = _features(opened, each, (data, split), layer, batch_size, overrides)
        _check_classes(labels, names, asked)
        centre = None
        if base:
            others, *_ = _features(opened, each, (base, ""), layer, batch_size, overrides)
            centre = others.mean(axis=0, keepdims=True)
        found = _rows(features, labels, asked, centre)
        about = {"weights": each.spec, "settings": dict(each.overrides), "label": each.label}
        rows += [{**about, **row} for row in found]
    over = f"{asked.num_episodes:,} episodes of {asked.ways} classes"
    _say(f"\naccuracy in percent over {over}, 95 % interval:\n{_table(rows)}")
    result = {
        "data": data,
        "split": split,
        "base": base,
        "layer": layer,
        **asked._asdict(),
        "class_names": list(names),
        "results": rows,
    }
    if out:
        import json

        files.replace_text(Path(out), json.dumps(result, indent=1) + "\n")
    return result


def _table(rows: Sequence[dict[str, Any]]) -> str:
    from jtl.report.tables import WHOLE, aligned

    body = [
        [
            row["label"],
            row["method"],
            f"{row['shots']}",
            f"{100 * row['accuracy']:.2f} ± {100 * row['half']:.2f}",
        ]
        for row in rows
    ]
    return aligned([["weights", "method", "shots", "accuracy"], *body], left=(0, 1), width=WHOLE)


def _rows(
    features: "np.ndarray", labels: "np.ndarray", asked: Episodes, centre: "np.ndarray | None"
) -> list[dict[str, Any]]:
    """Return accuracy and half its interval for every number of shots and method."""
    from jtl.data.episodes import Shape
    from jtl.ranking import FEW_SHOT

    found = []
    for shots in asked.shots:
        shape = Shape(asked.ways, shots, asked.queries)
        for method, fitted in FEW_SHOT.items():
            shares = accuracies(fitted, features, labels, shape, asked, centre)
            deviation = float(shares.std(ddof=1)) if len(shares) > 1 else 0.0
            half = QUANTILE * deviation / math.sqrt(len(shares))
            found.append({"method": method, "shots": shots, "accuracy": float(shares.mean()), "half": half})
    return found


def accuracies(
    fitted: Any,
    features: "np.ndarray",
    labels: "np.ndarray",
    shape: "jtl.data.episodes.Shape",
    asked: Episodes,
    centre: "np.ndarray | None" = None,
) -> "np.ndarray":
    """Return the share of queries that a method tells right, of every episode."""
    import numpy as np

    from jtl import signals
    from jtl.data import episodes

    members = episodes.members_of(labels)
    known = episodes.labels_of(shape.ways, shape.shots)
    expected = episodes.labels_of(shape.ways, shape.queries)
    shares = np.empty(asked.num_episodes)
    for number in range(asked.num_episodes):
        signals.check()
        drawn = episodes.episode(members, shape, asked.seed, number)
        found = fitted(features[drawn.support], known, features[drawn.queries], centre)
        shares[number] = np.mean(found == expected)
    return shares


def _features(
    opened: "jtl.predictor.Predictor",
    each: "jtl.verbs.rank.candidates.Candidate",
    place: tuple[str, str],
    layer: str,
    batch_size: int,
    overrides: Overrides,
) -> "tuple[np.ndarray, np.ndarray, tuple[str, ...]]":
    """Return a layer's output of all examples of (data, split), their classes from 0 on, and the names."""
    import numpy as np

    from jtl import predictor
    from jtl.verbs import observed

    known = observed.layers_of(opened)
    if layer not in known:
        raise UserError(f"--layer {layer!r} is no layer of {each.label}; nearest: {nearest(layer, known)}")
    features, labels = [], []
    for source, facts in _sources(opened, *place, overrides):
        fitted, lines = predictor.fitted(opened, facts)
        _say("\n".join([*lines, predictor.described(fitted)]))
        seen = observed.observed(fitted, source, batch_size, _say, each.label)
        features.append(np.asarray(seen.layers[layer], np.float64))
        labels.append(_class_names(source, place[0]))
    names, classes = np.unique(np.concatenate(labels), return_inverse=True)
    return np.concatenate(features), classes, tuple(names.tolist())


def _sources(
    opened: "jtl.predictor.Predictor", data: str, split: str, overrides: Overrides
) -> "list[tuple[jtl.data.Source, list[Any]]]":
    """Return the splits to draw from, and what the kind of input found of their examples.

    A split that is a folder is read by itself: its classes need not be those of training.
    """
    from jtl.data import preflight
    from jtl.training import build, config

    inside = os.path.join(data, split)
    path = inside if split and os.path.isdir(inside) else data
    shared = [pair for pair in overrides if pair[0].startswith("data.")]
    settings = config.with_overrides(build.with_data(opened.settings, path), shared)
    splits = build.open_splits(settings)
    if split and path == data:
        if split not in splits:
            raise UserError(f"--split {split!r} is not in the data; nearest: {nearest(split, splits)}")
        splits = {split: splits[split]}
    checked = preflight.inspect(splits, settings.data, opened.input)
    _say("\n".join(checked.lines))
    return [(source, checked.facts) for source in checked.splits.values()]


def _class_names(source: "jtl.data.Source", data: str) -> "np.ndarray":
    """Return the name of every example's class."""
    import numpy as np

    labels = source.labels()
    if labels is None or labels.ndim != 1:
        raise UserError(
            f"{data!r} has not one class an example; expected a folder a class, or a table of labels"
        )
    return np.asarray(source.info.label_names)[labels]


def _check(asked: Episodes, batch_size: int, out: str) -> None:
    check_at_least("--batch-size", batch_size)
    check_at_least("--ways", asked.ways, 2)
    check_at_least("--queries", asked.queries)
    check_at_least("--episodes", asked.num_episodes)
    check_at_least("--seed", asked.seed, 0)
    for shots in asked.shots:
        check_at_least("--shots", shots)
    if out:
        check_writable(out, (".json",))


def _check_classes(labels: "np.ndarray", names: tuple[str, ...], asked: Episodes) -> None:
    """Raise UserError unless episodes can be drawn of these classes."""
    import numpy as np

    if len(names) < asked.ways:
        raise UserError(
            f"the data has {counted(len(names), 'classes')} and --ways is {asked.ways}; lower it, or give "
            f"more classes"
        )
    counts, least = np.bincount(labels), max(asked.shots) + asked.queries
    if counts.min() < least:
        few = int(counts.argmin())
        raise UserError(
            f"class {names[few]!r} has {counted(int(counts[few]), 'examples')}, and an episode takes {least} "
            f"of each ({max(asked.shots)} shots, {asked.queries} queries); lower --shots or --queries, or "
            f"leave the class out"
        )


def shots_of(text: str) -> tuple[int, ...]:
    """Return the numbers of shots of a list.

    Raises:
        UserError: it is no list of numbers.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"--shots is {text!r}; expected numbers such as 1,5") from error


def _say(text: str) -> None:
    if text:
        sys.stderr.write(f"{text}\n")


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    asked = Episodes(args.ways, shots_of(args.shots), args.queries, args.episodes, args.seed)
    result = run(
        data=args.data,
        weights=args.weights,
        asked=asked,
        split=args.split,
        base=args.base,
        layer=args.layer,
        batch_size=args.batch_size,
        out=args.out,
        overrides=overrides,
    )
    show(args, result)
    best = max(result["results"], key=lambda row: row["accuracy"])
    own, given = (
        override_words([(name, str(value)) for name, value in best["settings"].items()]),
        override_words(overrides),
    )
    say_next(
        ["jtl", "rank", args.data, "--weights", *args.weights, *given],
        ["jtl", "train", args.data, "--weights", best["weights"], *own, *given, "--strategy", "probe"],
    )
    return 0


VERB = Verb("tell classes by a few labelled examples each, over many episodes", add_arguments, _command)
