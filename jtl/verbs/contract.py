"""What the command line asks of a verb, and how verbs print their result."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from jtl.errors import UserError


class Verb(NamedTuple):
    """One verb: its help line, its arguments, and what it does with (arguments, overrides) → exit code.

    `has_output` is false where verbs of its own follow, which have the output's options.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, list[tuple[str, str]]], int]
    has_output: bool = True


def refuse(overrides: list[tuple[str, str]]) -> None:
    """Raise UserError for settings given to a verb that reads none."""
    if overrides:
        raise UserError(f"--config.{overrides[0][0]} is given, but this verb reads no configuration")


def print_json(value: dict[str, Any]) -> None:
    """Print the one JSON object of `--json`."""
    sys.stdout.write(json.dumps(value) + "\n")
