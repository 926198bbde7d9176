"""The verb `jtl few-shot`: how well new classes are told by a few labelled examples of each.

For methods of features every candidate runs forward once; the others learn the labelled examples of every
episode. Episodes are the same for all candidates and methods. The interval of 95 % is over episodes, as is
usual (mean ± 1.96 standard errors).
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl import files
from jtl.errors import UserError, counted, nearest
from jtl.verbs.contract import Overrides, Verb, add_batch_size, check_at_least, override_words, say_next, show
from jtl.verbs.features import OWN
from jtl.verbs.few_shot.asked import EPISODES, QUERIES, SHOTS, STEPS, WAYS, Episodes
from jtl.verbs.rows import check_writable

if TYPE_CHECKING:
    import numpy as np

    import jtl.data
    import jtl.predictor
    import jtl.verbs.few_shot.methods
    import jtl.verbs.rank.candidates

BATCH_SIZE = 32
# Of a normal distribution: 95 % lie within so many standard errors.
QUANTILE = 1.959964


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
    parser.add_argument(
        "--methods",
        default="",
        metavar="LIST",
        help="such as nearest_mean,probe,maml,full,lora (those of features, and what a run has learnt for)",
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help=f"of what is fine-tuned, such as full ({STEPS})"
    )
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
    methods: Sequence[str] = (),
    split: str = "",
    base: str = "",
    layer: str = OWN,
    batch_size: int = BATCH_SIZE,
    out: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Measure the methods on the episodes with every candidate; return a JSON-ready result.

    Without `methods` they are those of features, and what a run has learnt for.

    Raises:
        UserError: a class is too small for an episode, there are too few classes, a method is unknown, or
            weights and data do not go together.
    """
    from jtl.verbs.few_shot import methods as known
    from jtl.verbs.rank import candidates

    _check(asked, batch_size, out)
    rows: list[dict[str, Any]] = []
    names: tuple[str, ...] = ()
    for each in candidates.read(weights, "", data):
        chosen = known.of_weights(methods, each.spec)
        opened = candidates.opened(each, data, overrides)
        layer_of = (layer, batch_size) if any(name in known.OF_FEATURES for name in chosen) else None
        case, names = _case(opened, each, (data, split), layer_of, overrides)
        _check_classes(case.labels, names, asked)
        if base and layer_of:
            others, _ = _case(opened, each, (base, ""), layer_of, overrides)
            assert others.features is not None, "a layer is read"
            case = case._replace(centre=others.features.mean(axis=0, keepdims=True))
        about = {"weights": each.spec, "settings": dict(each.overrides), "label": each.label}
        rows += [{**about, **row} for row in _rows(case, chosen, asked)]
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
    case: "jtl.verbs.few_shot.methods.Case", names: Sequence[str], asked: Episodes
) -> list[dict[str, Any]]:
    """Return accuracy and half its interval for every number of shots and method."""
    from jtl.data.episodes import Shape
    from jtl.verbs.few_shot import methods

    found = []
    for shots in asked.shots:
        shape = Shape(asked.ways, shots, asked.queries)
        for method in names:
            shares = methods.measured(method, case, shape, asked)
            deviation = float(shares.std(ddof=1)) if len(shares) > 1 else 0.0
            half = QUANTILE * deviation / math.sqrt(len(shares))
            found.append({"method": method, "shots": shots, "accuracy": float(shares.mean()), "half": half})
    return found


def _case(
    opened: "jtl.predictor.Predictor",
    each: "jtl.verbs.rank.candidates.Candidate",
    place: tuple[str, str],
    layer_of: tuple[str, int] | None,
    overrides: Overrides,
) -> "tuple[jtl.verbs.few_shot.methods.Case, tuple[str, ...]]":
    """Return the examples of (data, split) with their classes from 0 on, and the names of these.

    `layer_of` is the layer whose output is read of all of them, and in batches of how many; None: none is.
    """
    import numpy as np

    from jtl import predictor
    from jtl.data.joined import joined
    from jtl.verbs import observed
    from jtl.verbs.few_shot.methods import Case
    from jtl.verbs.few_shot.rows import rows_of

    known = observed.layers_of(opened)
    if layer_of and layer_of[0] not in known:
        raise UserError(
            f"--layer {layer_of[0]!r} is no layer of {each.label}; nearest: {nearest(layer_of[0], known)}"
        )
    features, labels, sources, fitted = [], [], [], opened
    for source, facts in _sources(opened, *place, overrides):
        fitted, lines = predictor.fitted(opened, facts)
        _say("\n".join([*lines, predictor.described(fitted)]))
        if layer_of:
            seen = observed.observed(fitted, source, layer_of[1], _say, each.label)
            features.append(np.asarray(seen.layers[layer_of[0]], np.float64))
        labels.append(_class_names(source, place[0]))
        sources.append(source)
    names, classes = np.unique(np.concatenate(labels), return_inverse=True)
    source = joined(sources, sources[0].info) if len(sources) > 1 else sources[0]
    case = Case(
        opened=fitted,
        spec=each.spec,
        source=source,
        inputs=cache(partial(rows_of, fitted, source)),
        labels=classes,
        features=np.concatenate(features) if features else None,
        centre=None,
        overrides=overrides,
        say=_say,
    )
    return case, tuple(names.tolist())


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
    check_at_least("--steps", asked.steps)
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
    asked = Episodes(args.ways, shots_of(args.shots), args.queries, args.episodes, args.seed, args.steps)
    result = run(
        data=args.data,
        weights=args.weights,
        asked=asked,
        methods=[each.strip() for each in args.methods.split(",")] if args.methods else (),
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
