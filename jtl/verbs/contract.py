"""What the command line asks of a verb, and what verbs share of their arguments and output.

A verb's file holds its arguments and its work side by side. The command line imports all of them to show
their help, so what is heavy (jax, numpy) is imported inside functions, and annotations name its types in
quotes, by their whole path.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jtl.errors import UserError

Overrides = Sequence[tuple[str, str]]
BATCH_SIZE = 64


class Verb(NamedTuple):
    """One verb: its help line, its arguments, and what it does with (arguments, overrides) → exit code.

    `has_output` is false where verbs of its own follow, which have the output's options. With `goes_on` the
    same command, repeated, goes on where it was stopped.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    command: Callable[[argparse.Namespace, list[tuple[str, str]]], int]
    has_output: bool = True
    goes_on: bool = False


def add_verbs(parser: argparse.ArgumentParser, dest: str, verbs: Mapping[str, Verb]) -> None:
    """Add the verbs to choose one from; its name becomes the argument `dest`."""
    parsers = parser.add_subparsers(dest=dest, required=True, metavar=dest.upper())
    for name, verb in verbs.items():
        sub = parsers.add_parser(name, help=verb.help, description=verb.help, allow_abbrev=False)
        verb.add_arguments(sub)
        if verb.has_output:
            _add_output(sub)


def add_model(
    parser: argparse.ArgumentParser, *, has_artefact: bool = False, has_batch_size: bool = True
) -> None:
    """Add the arguments that name a model: `run`, `weights` or perhaps `artefact`, the others ""."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", default="", metavar="FOLDER", help="a run folder of jtl train")
    model.add_argument(
        "--weights",
        default="",
        metavar="SPEC",
        help="pretrained weights: a name of `jtl weights list`, a file, hf://, https://, gs://",
    )
    if has_artefact:
        model.add_argument("--artefact", default="", metavar="FOLDER", help="what jtl export wrote")
    if has_batch_size:
        add_batch_size(parser)


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Add how many examples the model sees at a time."""
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="examples at a time")


def check_at_least(flag: str, value: int, low: int = 1) -> None:
    """Raise UserError for a number on the command line that is too small."""
    if value < low:
        raise UserError(f"{flag} is {value}; expected {low:,} or more")


def out_folder(out: str) -> Path:
    """Return the folder that `--out` names, made where it is not there.

    Raises:
        UserError: it is a file, or cannot be made.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {out!r} is a file; expected a folder, or one to make")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out!r} cannot be made: {error.strerror}; give another place") from error
    return folder


def refuse(overrides: Overrides, but: str = "") -> None:
    """Raise UserError for settings given to a verb that reads none, or none `but` some."""
    if overrides:
        raise UserError(f"--config.{overrides[0][0]} is given, but this verb reads no configuration{but}")


def of_weights(overrides: Overrides) -> Overrides:
    """Return the overrides of a verb that reads nothing but settings of weights.

    Raises:
        UserError: one is of something else.
    """
    refuse([each for each in overrides if not each[0].startswith("weights.")], but=" but weights.*")
    return overrides


def model_words(args: argparse.Namespace) -> list[str]:
    """Return the words that name the model of `add_model` again, for another command."""
    flags = ("run", "weights", "artefact")
    return [word for flag in flags if getattr(args, flag, "") for word in (f"--{flag}", getattr(args, flag))]


def override_words(overrides: Overrides, without: str = "") -> list[str]:
    """Return the settings again, for another command, but those that begin so.

    >>> override_words([("weights.entry", "ema"), ("data.path", "a/")], without="data.")
    ['--config.weights.entry=ema']
    """
    return [
        f"--config.{name}={value}" for name, value in overrides if not (without and name.startswith(without))
    ]


def show(args: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Print the result as the one JSON object of `--json`, if that was asked for."""
    if args.json:
        sys.stdout.write(json.dumps(result) + "\n")


def say_next(*commands: Sequence[str], page: str = "") -> None:
    """Print the commands that come next, as words, and a page to look at ("": none).

    A word in capitals stands for what the user has to say.
    """
    rows = [f"look at: {page}"] if page else []
    rows += [f"next: {shlex.join(words)}" for words in commands]
    sys.stderr.write("".join(f"{row}\n" for row in rows))


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, everything else on stderr"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
