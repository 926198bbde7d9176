"""The action `jtl weights convert`: write weights under the names another library reads."""

import argparse
import sys
from pathlib import Path

from jtl.verbs.contract import Verb, of_weights, say_next, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument("file", metavar="SPEC", help="a file, a run folder, hf://, https://, gs://")
    parser.add_argument(
        "--to", required=True, metavar="KIND", help="safetensors-timm, -hf or -jtl, npz, orbax"
    )
    parser.add_argument("--out", required=True, metavar="PATH", help="what to write")


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl.training import config
    from jtl.weights import convert

    done = convert.convert(args.file, args.to, Path(args.out), config.weights_of(of_weights(overrides)))
    if not args.json:
        sys.stdout.write("\n".join(convert.text(done)) + "\n")
    show(args, convert.as_json(done))
    say_next(["jtl", "weights", "inspect", args.out], ["jtl", "train", "DATA", "--weights", args.out])
    return 0


VERB = Verb("write weights under the names another library reads", add_arguments, _command)
