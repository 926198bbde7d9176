"""The action `jtl weights inspect`: what is in a file of weights, and what jtl takes it for."""

import argparse
import sys

from jtl.errors import UserError
from jtl.verbs.contract import Verb, of_weights, override_words, say_next, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("file", metavar="SPEC", help="a file, a run folder, hf://, https://, gs://")
    parser.add_argument("--tensors", action="store_true", help="show every tensor")


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl.report import tables
    from jtl.training import config
    from jtl.training.build import MIN_OUTPUTS
    from jtl.weights import inspect

    found = inspect.inspect(args.file, config.weights_of(of_weights(overrides)))
    if not args.json:
        rows, num_hidden = inspect.rows(found, has_all=args.tensors)
        more = [f"… {num_hidden} more (--tensors shows them)"] if num_hidden else []
        table = tables.aligned(rows, left=(0, 1, 2, 3), width=tables.WHOLE)
        sys.stdout.write("\n".join([*inspect.text(found), table, *more]) + "\n")
    show(args, inspect.as_json(found))
    if found.recognised is None:
        raise UserError(inspect.unknown(found))
    model, settings = ["--weights", args.file], override_words(overrides)
    has_head = found.recognised.num_outputs >= MIN_OUTPUTS
    say_next(
        ["jtl", "train", "DATA", *model, *settings],
        *([["jtl", "predict", *model, "FILES", *settings]] if has_head else []),
        ["jtl", "features", *model, "--data", "DATA", "--out", "features.npz", *settings],
    )
    return 0


VERB = Verb("say what is in a file of weights, and what jtl takes it for", add_arguments, _command)
