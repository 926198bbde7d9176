"""The verb `jtl weights`: what can be done with pretrained weights, one file an action."""

import argparse

from jtl.verbs.contract import Verb, add_verbs
from jtl.verbs.weights import catalogue, convert, inspect, verify

ACTIONS: dict[str, Verb] = {
    "list": catalogue.VERB,
    "inspect": inspect.VERB,
    "convert": convert.VERB,
    "verify": verify.VERB,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, each with its arguments."""
    add_verbs(parser, "action", ACTIONS)


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    return ACTIONS[args.action].command(args, overrides)


VERB = Verb("list, inspect, convert and verify weights", add_arguments, _command, has_output=False)
