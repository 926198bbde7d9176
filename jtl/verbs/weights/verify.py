"""The action `jtl weights verify`: measure pretrained weights with their own head on labelled data."""

import argparse

from jtl.verbs import evaluate
from jtl.verbs.contract import Verb, add_batch_size, override_words, say_next, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("weights", metavar="SPEC", help="pretrained weights with their own head")
    parser.add_argument(
        "--against", required=True, metavar="DATA", help="labelled data: a folder, a table or a .npz"
    )
    add_batch_size(parser)


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = evaluate.run(
        weights=args.weights, data=args.against, batch_size=args.batch_size, overrides=overrides
    )
    show(args, result)
    model, settings = ["--weights", args.weights], override_words(overrides)
    say_next(["jtl", "predict", *model, "FILES", *settings], ["jtl", "train", "DATA", *model, *settings])
    return 0


VERB = Verb("measure pretrained weights on labelled data", add_arguments, _command)
