"""The action `jtl weights list`: well-known weights by name."""

import argparse
import sys

from jtl.verbs.contract import Verb, refuse, say_next, show

LEFT_COLUMNS = (0, 1, 2, 3, 6, 7, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the list is always whole."""


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl.report import tables
    from jtl.weights.hub import catalogue

    refuse(overrides)
    if not args.json:
        sys.stdout.write(tables.aligned(catalogue.rows(), left=LEFT_COLUMNS, width=tables.WHOLE) + "\n")
    show(args, {"weights": [catalogue.as_json(entry) for entry in catalogue.entries().values()]})
    say_next(["jtl", "weights", "inspect", "NAME"], ["jtl", "train", "DATA", "--weights", "NAME"])
    return 0


VERB = Verb("list well-known weights by name", add_arguments, _command)
