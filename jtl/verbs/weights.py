"""The verbs under `jtl weights` that need no jax: list, inspect, convert."""

import argparse
import sys

from jtl.verbs.contract import Verb, print_json, refuse

# For tables whose names must stay whole, whatever the terminal.
UNLIMITED = 10_000


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="SPEC", help="a file, a run folder, hf://, https://, gs://")
    parser.add_argument("--tensors", action="store_true", help="show every tensor")


def _inspect(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    refuse(overrides)
    from jtl.report import tables
    from jtl.weights import inspect

    found = inspect.inspect(args.file)
    if args.json:
        print_json(inspect.as_json(found))
        return 0
    rows, num_hidden = inspect.rows(found, has_all=args.tensors)
    more = [f"… {num_hidden} more (--tensors shows them)"] if num_hidden else []
    sys.stdout.write(
        "\n".join([*inspect.text(found), tables.aligned(rows, left=(0, 1, 2, 3), width=UNLIMITED), *more])
        + "\n"
    )
    return 0


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="SPEC", help="a file, a run folder, hf://, https://, gs://")
    parser.add_argument(
        "--to", required=True, metavar="KIND", help="safetensors-timm, -hf or -jtl, npz, orbax"
    )
    parser.add_argument("--out", required=True, metavar="PATH", help="what to write")


def _convert(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    refuse(overrides)
    from pathlib import Path

    from jtl.weights import convert

    done = convert.convert(args.file, args.to, Path(args.out))
    if args.json:
        print_json(convert.as_json(done))
    else:
        sys.stdout.write("\n".join(convert.text(done)) + "\n")
    return 0


def _list(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    refuse(overrides)
    from jtl.report import tables
    from jtl.weights.hub import catalogue

    if args.json:
        print_json({"weights": [catalogue.as_json(entry) for entry in catalogue.entries().values()]})
    else:
        sys.stdout.write(tables.aligned(catalogue.rows(), left=(0, 1, 2, 3, 6, 7, 8), width=UNLIMITED) + "\n")
    return 0


VERBS: dict[str, Verb] = {
    "list": Verb("list well-known weights by name", lambda parser: None, _list),
    "inspect": Verb("say what is in a file of weights, and what jtl takes it for", _add_inspect, _inspect),
    "convert": Verb("write weights under the names another library reads", _add_convert, _convert),
}
